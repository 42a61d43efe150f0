"""Sets are read as they were written, in any order."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from portrait_sets import SHAPES, SIDE, drawn, face_in, tensors_of, write_set

from hyperlora.dataset import PortraitDataset, Portraits, ShardWriter, person_number
from hyperlora.errors import DatasetConflict, DatasetDamaged, DatasetMissing, InvalidRequest

ORDER = [3, 0, 4, 4, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), face_encoder="painter", clip_vision="a/tower", vae="v")


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_batch_holds_the_samples_in_the_order_asked_for(folder: Path, in_memory: bool) -> None:
    # Given a set of five samples in three shards
    found = PortraitDataset.open(folder, in_memory=in_memory)
    assert isinstance(found, Portraits) and len(found) == 5 and len(found.info.shards) == 3
    # When some of them are asked for
    batch = found.batch(torch.tensor(ORDER))
    # Then every tensor has their rows, in their order and its stored type
    wanted = {name: torch.stack([tensors_of(number)[name] for number in ORDER]) for name in SHAPES}
    rows = (batch.clip_tokens_BTC, batch.base_tokens_BTC, batch.face_embeddings_BE, batch.latents_BCHW)
    for name, tensor in zip(SHAPES, rows, strict=True):
        assert tensor is not None
        assert tensor.dtype == (torch.float32 if name == "face_embeddings" else torch.float16)
        torch.testing.assert_close(tensor.float(), wanted[name], rtol=0, atol=0)
    assert batch.captions == [f"portrait {number}" for number in ORDER]
    # And pictures are not decoded where latents serve
    assert batch.pixels_B3HW is None


def test_references_replace_the_face_conditions_only(folder: Path) -> None:
    # When another photo of the same person is given for each picture
    batch = PortraitDataset.open(folder).batch([0, 3], references=[1, 2])
    # Then the face is that photo's, and surroundings, latents and caption are the picture's own
    assert batch.clip_tokens_BTC is not None and batch.base_tokens_BTC is not None
    assert batch.face_embeddings_BE is not None and batch.latents_BCHW is not None
    assert batch.clip_tokens_BTC[:, 0, 0].tolist() == [1, 2]
    assert batch.face_embeddings_BE[:, 0].tolist() == [1.5, 2.5]
    assert batch.base_tokens_BTC[:, 0, 0].tolist() == [0.25, 3.25]
    assert batch.latents_BCHW[:, 0, 0, 0].tolist() == [0.75, 3.75]
    assert batch.captions == ["portrait 0", "portrait 3"]


def test_pixels_are_the_pictures(folder: Path) -> None:
    # When pixels are asked for beside latents
    batch = PortraitDataset.open(folder).batch([2, 0], pixels=True)
    # Then they are the drawn portraits from -1 to 1, up to what JPEG loses
    assert batch.pixels_B3HW is not None and batch.pixels_B3HW.shape == (2, 3, SIDE, SIDE)
    for pixels_3HW, number in zip(batch.pixels_B3HW, (2, 0), strict=True):
        drawn_3HW = np.asarray(drawn(number), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
        assert np.abs(pixels_3HW.numpy() - drawn_3HW).mean() < 0.05


def test_info_says_what_is_stored(folder: Path) -> None:
    info = PortraitDataset.open(folder).info
    assert (info.count, info.image_size) == (5, SIDE)
    assert (info.face_encoder, info.face_width, info.clip_vision, info.vae) == ("painter", 7, "a/tower", "v")
    assert (info.clip_tokens, info.latents) == ((5, 6), (4, 8, 8))
    assert json.loads((folder / "dataset.json").read_text())["shards"][0]["name"] == "00000"


def test_faces_and_persons(folder: Path) -> None:
    found = PortraitDataset.open(folder)
    assert found.persons is not None and found.persons.tolist() == [0, 0, 1, 1, 2]
    face = found.found_face(3)
    assert face is not None and face.points_106_2 is not None
    np.testing.assert_allclose(face.points_106_2, face_in(drawn(3)).points_106_2, atol=0.006)
    assert found.face(3)["source"] == "drawn 3"


def test_a_person_who_is_not_known_is_nobody_elses_double(tmp_path: Path) -> None:
    # Given samples of a numbered, a named and two unknown people
    with ShardWriter(tmp_path, image_size=SIDE) as writer:
        for who in (7, "ada", None, None):
            writer.add(drawn(0), "", {"person": who})
    # When their numbers are asked for
    persons = PortraitDataset.open(tmp_path).persons
    # Then the unknown ones are negative and differ
    assert persons is not None
    assert persons.tolist() == [7, person_number("ada"), -3, -4]
    assert person_number("ada") != person_number("Ada")


def test_nobody_known_is_none(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, image_size=SIDE) as writer:
        writer.add(drawn(0), "")
    assert PortraitDataset.open(tmp_path).persons is None


def test_a_shard_is_read_by_its_tar_alone(tmp_path: Path) -> None:
    # Given a set without tensors whose tensor files (and with them the index) are gone
    write_set(tmp_path, with_tensors=False)
    whole = PortraitDataset.open(tmp_path)
    wanted = [(whole.caption(row), whole.face(row)) for row in range(5)]
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    # When it is read
    found = PortraitDataset.open(tmp_path)
    # Then nothing is missing
    assert [(found.caption(row), found.face(row)) for row in range(5)] == wanted
    assert found.persons is not None and found.persons.tolist() == [0, 0, 1, 1, 2]
    assert found.batch([4]).pixels_B3HW is not None


def test_shards_are_webdataset(folder: Path) -> None:
    """Any reader of tar files sees keys with three parts each."""
    with tarfile.open(folder / "00001.tar") as archive:
        names = archive.getnames()
        caption = archive.extractfile("00001000001.txt")
        assert caption is not None and caption.read() == b"portrait 3"
    assert names == [f"00001{row:06d}.{part}" for row in range(2) for part in ("jpg", "txt", "face.json")]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_package_webdataset_reads_them(folder: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(folder / "00000.tar"), shardshuffle=False).decode("pil"))
    assert [sample["txt"] for sample in samples] == ["portrait 0", "portrait 1"]
    assert samples[0]["jpg"].size == (SIDE, SIDE) and samples[0]["face.json"]["person"] == 0


def test_equal_samples_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_set(tmp_path, face_encoder="painter", clip_vision="a/tower", vae="v")
    for file in sorted(folder.iterdir()):
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in folder.iterdir())


def test_a_broken_off_set_is_not_there(tmp_path: Path) -> None:
    # Given a writer that is interrupted in its second shard
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, image_size=SIDE, shard_size=2) as writer:
        for number in range(3):
            writer.add(drawn(number), "", tensors=tensors_of(number))
        raise KeyboardInterrupt
    # Then there is no description and nothing half-written, and the shard before does not pass for a new set's
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.safetensors", "00000.tar"]
    with pytest.raises(DatasetConflict, match="holds a data set"):
        ShardWriter(tmp_path, image_size=SIDE)


@pytest.mark.parametrize("indices", [[], [5], [-1], [0, 99]])
def test_numbers_beyond_the_set_are_refused(folder: Path, indices: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="numbers from 0 to 4"):
        PortraitDataset.open(folder).batch(indices)


def test_each_sample_needs_its_reference(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="found 1 for 2"):
        PortraitDataset.open(folder).batch([0, 1], references=[1])


def test_samples_must_be_alike(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, image_size=SIDE) as writer:
        with pytest.raises(InvalidRequest, match="found masks"):
            writer.add(drawn(1), "", tensors={"masks": torch.zeros(1)})
        writer.add(drawn(0), "", tensors=tensors_of(0))
        with pytest.raises(InvalidRequest, match="tensors of shapes"):
            writer.add(drawn(1), "")
        with pytest.raises(InvalidRequest, match="64 pixels square, found 65 x 64"):
            writer.add(Image.new("RGB", (65, 64)), "", tensors=tensors_of(0))
    # And what was refused left nothing behind
    assert len(PortraitDataset.open(tmp_path)) == 1


def test_plain_folders_are_read(tmp_path: Path) -> None:
    # Given pictures with captions and faces beside some of them
    (tmp_path / "ada").mkdir()
    drawn(0).save(tmp_path / "ada" / "1.png")
    (tmp_path / "ada" / "1.txt").write_text(" a \n woman ")
    (tmp_path / "ada" / "1.face.json").write_text('{"person": 12, "labels": {"hair": "grey"}}')
    drawn(1, size=70).save(tmp_path / "2.JPG")
    (tmp_path / "notes.txt").write_text("no picture")
    # When the folder is opened
    found = PortraitDataset.open(tmp_path)
    # Then pictures come by name, with what is known of them
    assert [found.image(row).size for row in range(len(found))] == [(70, 70), (64, 64)]
    assert [found.caption(row) for row in (0, 1)] == ["", "a woman"]
    assert found.face(1)["labels"] == {"hair": "grey"} and found.found_face(1) is None
    assert found.persons is not None and found.persons.tolist() == [-1, 12]
    # And batches are refused with what to do
    with pytest.raises(InvalidRequest, match="dataset prepare"):
        found.batch([0])


def test_plain_shards_are_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes((folder / "00001.tar").read_bytes())
    (tmp_path / "b.tar").write_bytes((folder / "00002.tar").read_bytes())
    found = PortraitDataset.open(tmp_path)
    assert [found.caption(row) for row in range(len(found))] == ["portrait 2", "portrait 3", "portrait 4"]
    assert found.persons is not None and found.persons.tolist() == [1, 1, 2]


def test_an_empty_folder_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing, match="no picture"):
        PortraitDataset.open(tmp_path)
    with pytest.raises(DatasetMissing, match="is none"):
        PortraitDataset.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"count": 6}, "counts 6 samples, its shards 5"),
        ({"face_width": 8}, r"face_embeddings of shape \(2, 8\), found \(2, 7\)"),
        ({"clip_tokens": [5]}, "clip_tokens"),
        ({"shards": [{"name": "../../x", "count": 5}]}, "shards.0.name"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = write_set(tmp_path) / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DatasetDamaged, match=message):
        PortraitDataset.open(tmp_path).batch([0])
