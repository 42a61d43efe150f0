"""Several photos of one person, or of what claims to be one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage import data

from hyperlora.errors import NoUsablePhoto
from hyperlora.faces import PhotoConditions
from hyperlora.faces.types import Face, FaceAnalyzer
from hyperlora.identity import prepare_identity


class MeanTokens:
    """Stands in for CLIP: two tokens of three numbers, the picture's mean colour and its size."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, int]]] = []

    def tokens(self, images: Sequence[Image.Image]) -> torch.Tensor:
        self.calls.append([image.size for image in images])
        rows = [
            [np.asarray(image).mean(axis=(0, 1)).tolist(), [float(image.width), float(image.height), 0.0]]
            for image in images
        ]
        return torch.tensor(rows, dtype=torch.float32)


@pytest.fixture
def clip() -> MeanTokens:
    return MeanTokens()


def test_photos_of_one_person(
    analyzer: FaceAnalyzer, clip: MeanTokens, astronaut: Image.Image, astronaut_conditions: PhotoConditions
) -> None:
    # Given three photos of one person
    photos = [astronaut, ImageOps.mirror(astronaut), astronaut.resize((700, 700))]
    # When they become conditions
    identity = prepare_identity(analyzer, clip, photos)
    # Then shapes are (N, E) and (N, T, C)
    assert identity.face_embeddings.shape == (3, 128) and identity.face_embeddings.dtype == torch.float32
    assert identity.clip_tokens.shape == identity.base_tokens.shape == (3, 2, 3)
    assert identity.used == (0, 1, 2) and identity.encoder == "opencv-yunet-sface"
    # And every photo is usable, without a word
    assert [(v.index, v.verdict, v.code, v.reason) for v in identity.verdicts] == [
        (0, "usable", None, ""),
        (1, "usable", None, ""),
        (2, "usable", None, ""),
    ]
    # And the reference is the direction of the mean
    embeddings = identity.face_embeddings.double().numpy()
    mean = embeddings.sum(axis=0)
    np.testing.assert_allclose(identity.reference_embedding, mean / np.sqrt((mean**2).sum()), atol=1e-6)
    # And similarities are the cosines of pairs
    assert identity.similarity_NN.shape == (3, 3)
    np.testing.assert_allclose(np.diag(identity.similarity_NN), 1.0, atol=1e-5)
    assert identity.similarity_NN[0, 1] == pytest.approx(float(embeddings[0] @ embeddings[1]), abs=1e-5)
    # And CLIP was shown the masked faces for one stream, the faceless pictures for the other, in one call
    assert len(clip.calls) == 1 and len(clip.calls[0]) == 6
    expected = [np.asarray(astronaut_conditions.clip_image).mean(), np.asarray(astronaut_conditions.base_image).mean()]
    assert identity.clip_tokens[0, 0].mean() == pytest.approx(expected[0], rel=1e-4)
    assert identity.base_tokens[0, 0].mean() == pytest.approx(expected[1], rel=1e-4)


def test_photos_without_a_face_are_refused_with_their_reason(
    analyzer: FaceAnalyzer, clip: MeanTokens, astronaut: Image.Image
) -> None:
    # Given a good photo between coins and a stamp
    photos = [Image.fromarray(data.coins()), astronaut, Image.new("RGB", (10, 10))]
    identity = prepare_identity(analyzer, clip, photos)
    # Then one photo is used
    assert identity.used == (1,) and identity.face_embeddings.shape == (1, 128)
    # And all three have a verdict in their order
    assert [(v.index, v.verdict, v.code) for v in identity.verdicts] == [
        (0, "refused", "no_face"),
        (1, "usable", None),
        (2, "refused", "bad_photo"),
    ]
    assert "no face found" in identity.verdicts[0].reason and "10 x 10" in identity.verdicts[2].reason


def test_a_person_without_a_usable_photo_hears_why_of_each(analyzer: FaceAnalyzer, clip: MeanTokens) -> None:
    photos = [Image.fromarray(data.coins()), Image.new("RGB", (10, 10))]
    with pytest.raises(NoUsablePhoto, match=r"none of the person's 2 photos.*photo 1: no face.*photo 2: .*10 x 10"):
        prepare_identity(analyzer, clip, photos)
    with pytest.raises(NoUsablePhoto, match="has no photos"):
        prepare_identity(analyzer, clip, [])
    assert clip.calls == []


def test_a_stranger_among_the_photos_is_told(
    analyzer: FaceAnalyzer, clip: MeanTokens, astronaut: Image.Image, cameraman: Image.Image
) -> None:
    # Given three photos of the astronaut and one of the cameraman
    photos = [astronaut, cameraman, ImageOps.mirror(astronaut), astronaut.resize((640, 640))]
    identity = prepare_identity(analyzer, clip, photos)
    # Then only the cameraman is told to disagree, before all that is to be said about his photo
    assert [v.code for v in identity.verdicts] == [None, "photos_disagree", None, None]
    assert identity.verdicts[1].verdict == "warning"
    assert "0.36" in identity.verdicts[1].reason and "turned far" in identity.verdicts[1].reason
    # And with two photos nobody can say which one is wrong: both are told
    pair = prepare_identity(analyzer, clip, [astronaut, cameraman])
    assert [v.code for v in pair.verdicts] == ["photos_disagree", "photos_disagree"]


def test_opposite_embeddings_still_give_a_direction(clip: MeanTokens, astronaut: Image.Image) -> None:
    # Given an analyzer that calls the second photo the exact opposite of the first
    points = np.array([[200, 102], [247, 103], [220, 125], [199, 143], [240, 144]], dtype=np.float32)

    class Contrary:
        name = "contrary"
        embedding_size = 2

        def __init__(self) -> None:
            self.sign = -1.0

        def detect(self, rgb_HW3: np.ndarray, size: int = 640) -> list[Face]:
            return [Face(np.array([178, 63, 269, 174], np.float32), 0.99, points)]

        def embed(self, rgb_HW3: np.ndarray, face: Face) -> np.ndarray:
            self.sign = -self.sign
            return np.array([self.sign, 0.0], dtype=np.float32)

    identity = prepare_identity(Contrary(), clip, [astronaut, astronaut])
    # Then the reference is the first photo's, of unit length
    assert identity.reference_embedding.tolist() == [1.0, 0.0]
    assert identity.similarity_NN[0, 1] == pytest.approx(-1.0)
