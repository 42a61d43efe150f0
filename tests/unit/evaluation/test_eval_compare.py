"""Methods side by side: every measure of the slides' table, by a method and a judge whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from coded_world import PEOPLE, CodedJudge, coded
from PIL import Image

from hyperlora.errors import InvalidRequest, NoUsablePhoto
from hyperlora.evaluation.clip_scores import ClipScores
from hyperlora.evaluation.compare import Comparison, Subject
from hyperlora.evaluation.methods import Prepared, Rendered

PROMPTS, SEEDS = ["one", "two", "three", "four"], [1, 2, 3, 4]


def whole(who: int) -> list[float]:
    """The code of one person."""
    return [float(each == who) for each in range(PEOPLE)]


class Ideal:
    """Draws the person of the first photo in every second picture, and nobody in the others."""

    name = "ideal"

    def __init__(self, faces: bool = True) -> None:
        self._faces, self.calls = faces, 0

    def prepare(self, photos: Sequence[Image.Image]) -> Prepared:
        who = CodedJudge().embed(photos[:1])[0]
        if who is None:
            raise NoUsablePhoto()
        return Prepared(who, 0.5)

    def render(self, prepared: Prepared, prompts: Sequence[str], seeds: Sequence[int]) -> Rendered:
        self.calls += 1
        shares = [prepared.identity if self._faces and place % 2 == 0 else [0.0] for place in range(len(prompts))]
        return Rendered([coded(each, [], seed) for each, seed in zip(shares, seeds, strict=True)], 0.2 * len(prompts))


class Clip:
    """A picture's colour as its embedding; every text is red."""

    name = "clip"

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        rows = torch.tensor([image.getpixel((20, 20)) for image in images], dtype=torch.float32)
        return torch.nn.functional.normalize(rows, dim=-1)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(texts), -1)


def subject(who: int, **changes: Any) -> Subject:
    """Somebody with two photos."""
    return Subject(
        **{"name": f"p{who}", "photos": [coded(whole(who), [])] * 2, "prompts": PROMPTS, "seeds": SEEDS, **changes}
    )


def comparison(subjects: Sequence[Subject], *, clip: Any = None, plain: Any = None) -> Comparison:
    """With the coded judge."""
    return Comparison(subjects, CodedJudge(), plain or Ideal(faces=False), clip)


def test_likeness_counts_pictures_without_a_face() -> None:
    # Given a method that draws the very person in half of its pictures and nobody in the others
    scores = comparison([subject(0), subject(1)]).scores(Ideal())

    # Then it is half alike, and the failures are told
    assert scores.id_similarity.value == 0.5 and scores.id_similarity.people == 2
    assert (scores.pictures, scores.faceless, scores.unprepared) == (8, 4, 0)


def test_who_cannot_be_prepared_counts_as_nothing_drawn() -> None:
    # Given somebody whose photos show no face to the method, but whose gallery does to the judge
    hidden = subject(1, photos=[coded([0.0], [])], gallery=[coded(whole(1), [])])
    scores = comparison([subject(0), hidden]).scores(Ideal())
    assert scores.id_similarity.value == 0.25 and scores.unprepared == 1 and scores.faceless == 2 + 4


def test_times_are_medians_per_person_and_per_picture() -> None:
    method = Ideal()
    scores = comparison([subject(0), subject(1)]).scores(method)
    assert (scores.preprocess_ms, scores.inference_ms) == (500.0, pytest.approx(200.0))
    assert method.calls == 3  # the first one warms up and is not measured


def test_clip_scores_are_the_slides_measures() -> None:
    # Given pictures and photos of known colours
    photo = Image.new("RGB", (64, 64), (255, 0, 0))
    photo.putpixel((0, 0), (255, 0, 0))  # the code of person 0
    one = subject(0, photos=[photo])
    comparing = comparison([one], clip=Clip(), plain=Ideal(faces=False))

    # When a method is scored that draws the same colours as the base model
    scores = comparing.scores(Ideal())

    # Then editing is 1, and fidelity to a red photo is what CLIP-T says of a red text
    assert scores.clip_i_editing is not None and scores.clip_i_editing.value == pytest.approx(1.0)
    assert scores.clip_i_fidelity is not None and scores.clip_t is not None
    assert scores.clip_i_fidelity.value == pytest.approx(scores.clip_t.value) and 0.1 < scores.clip_t.value < 0.9


def test_without_clip_its_scores_are_not_measured() -> None:
    scores = comparison([subject(0)]).scores(Ideal())
    assert scores.clip_i_fidelity is scores.clip_i_editing is scores.clip_t is None


def test_pictures_of_all_methods_stand_side_by_side() -> None:
    comparing = comparison([subject(0), subject(1)])
    comparing.scores(Ideal())
    other = Ideal(faces=False)
    other.name = "other"
    comparing.scores(other)
    grid = comparing.grid()
    assert list(grid.columns) == ["photo", "ideal 1", "ideal 2", "other 1", "other 2"]
    assert [(name, len(pictures)) for name, pictures in grid.rows] == [("p0", 5), ("p1", 5)]
    assert grid.draw().width > 900


def test_a_person_without_a_face_for_the_judge_is_refused() -> None:
    faceless = subject(0, gallery=[coded([0.0], [])])
    with pytest.raises(InvalidRequest, match="no face in any photo of p0"):
        comparison([faceless]).scores(Ideal())


def test_nobody_cannot_be_compared() -> None:
    with pytest.raises(InvalidRequest, match="at least one person"):
        comparison([])


def test_clip_reads_pictures_and_texts(tmp_path: Any) -> None:
    # Given a tiny CLIP model with both towers, saved as transformers saves it
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    from hyperlora.mini.vocabulary import END, write_tokenizer

    vocabulary = write_tokenizer(tmp_path)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **small,
        "vocab_size": len(vocabulary),
        "eos_token_id": vocabulary[END],
        "bos_token_id": vocabulary[END] - 1,
    }
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    cast(Any, CLIPModel)(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert CLIPTokenizer.from_pretrained(tmp_path).vocab_size == len(vocabulary)

    # When pictures and texts are read
    clip = ClipScores.from_pretrained(tmp_path)
    images_ND = clip.images([Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")])
    texts_ND = clip.texts(["a red picture", "a much longer text about a blue picture " * 20])

    # Then all are different unit vectors of one space, each by itself
    assert images_ND.shape == texts_ND.shape == (2, 8)
    assert torch.allclose(torch.cat([images_ND, texts_ND]).norm(dim=1), torch.ones(4), atol=1e-5)
    assert not torch.allclose(images_ND[0], images_ND[1]) and not torch.allclose(texts_ND[0], texts_ND[1])
    assert torch.allclose(clip.texts(["a red picture"])[0], texts_ND[0], atol=1e-5)
    with pytest.raises(InvalidRequest):
        clip.images([])
