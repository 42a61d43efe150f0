"""Photos are prepared into a set: what is kept and dropped, what is stored, and how it goes on after an end."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_box import FAULTS, GOOD, HOSTILE, RULES, Made
from PIL import Image

from hyperlora.clip import ClipVision
from hyperlora.dataset import (
    EncoderNames,
    LivePortraits,
    PortraitDataset,
    Portraits,
    Preparation,
    Rules,
    person_number,
    prepare,
    vae_fingerprint,
)
from hyperlora.dataset.block import BlockRecord
from hyperlora.dataset.encoders import load_vae
from hyperlora.dataset.integrity import inspect
from hyperlora.errors import DatasetConflict, DatasetMissing, InvalidRequest, WeightsMissing
from hyperlora.faces import FaceAnalyzer, find_faces
from hyperlora.identity import prepare_identity
from hyperlora.sampling import encode

WITHOUT_NETWORKS = EncoderNames(device="cpu")


def records(folder: Path) -> list[BlockRecord]:
    return [
        BlockRecord.model_validate_json(path.read_bytes()) for path in sorted((folder / ".prepare").glob("0*.json"))
    ]


def files(folder: Path) -> dict[str, bytes]:
    """Names and contents of all but the report."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tar", ".safetensors", ".json")
    }


def test_good_photos_are_kept_and_each_other_has_its_reason(made: Made) -> None:
    # Given a box of photos with one of every fault
    # Then the good ones are kept, in the order of their names
    found = PortraitDataset.open(made.folder)
    assert [found.face(row)["source"] for row in range(len(found))] == [f"photos/{name}" for name in GOOD]
    # And every other photo is dropped for what was done to it
    reasons = {
        example.name: code
        for record in records(made.folder)
        for code, examples in record.examples.items()
        for example in examples
        if code != "kept"
    }
    wanted = {f"photos/{name}": code for name, (code, _) in FAULTS.items()}
    wanted[f"photos/{HOSTILE}"] = "bad_picture"
    wanted |= {"photos/alan/wordless": "no_caption", "photos/alan/garbled": "bad_text"}
    assert reasons == wanted
    assert made.prepared.dropped == dict.fromkeys(sorted(wanted.values()), 1)
    assert made.prepared.looked_at == len(wanted) + len(GOOD) == made.progress[-1][0] == len(made.progress)


def test_a_sample_holds_what_inference_would_make_of_the_photo(
    made: Made, photos: Path, pack: Path, analyzer: FaceAnalyzer
) -> None:
    # Given what the hypernetwork is shown of the same photo at inference
    tower = ClipVision.from_pretrained(pack / "clip_vision")
    with Image.open(photos / f"{GOOD[2]}.png") as photo:
        wanted = prepare_identity(analyzer, tower, [photo])
        caption = (photos / f"{GOOD[2]}.txt").read_text()
    # When the sample is read
    batch = PortraitDataset.open(made.folder).batch([2], pixels=True)
    # Then it has those tokens, in half precision, that embedding, and the photo's words
    assert batch.clip_tokens_BTC is not None and batch.base_tokens_BTC is not None
    torch.testing.assert_close(batch.clip_tokens_BTC.float(), wanted.clip_tokens, atol=5e-3, rtol=2e-3)
    torch.testing.assert_close(batch.base_tokens_BTC.float(), wanted.base_tokens, atol=5e-3, rtol=2e-3)
    assert batch.face_embeddings_BE is not None and batch.captions == [caption]
    torch.testing.assert_close(batch.face_embeddings_BE, wanted.face_embeddings, atol=1e-5, rtol=0)
    # And the latents of its picture, of which JPEG has lost a little
    assert batch.latents_BCHW is not None and batch.pixels_B3HW is not None
    vae = load_vae(pack / "sdxl")
    stored = PortraitDataset.open(made.folder).image(2)
    with torch.inference_mode():
        latents = encode(vae, [stored], at_once=1)
    similar = torch.nn.functional.cosine_similarity(batch.latents_BCHW.float().flatten(), latents.flatten(), dim=0)
    assert similar > 0.99 and batch.latents_BCHW.shape[-1] == latents.shape[-1]


def test_the_face_stands_where_the_record_says(made: Made, analyzer: FaceAnalyzer) -> None:
    found = PortraitDataset.open(made.folder)
    for row in range(len(found)):
        face = found.found_face(row)
        (seen,) = find_faces(analyzer, np.asarray(found.image(row), dtype=np.uint8))
        assert face is not None and face.overlap(seen) > 0.8


def test_people_are_the_folders(made: Made) -> None:
    persons = PortraitDataset.open(made.folder).persons
    ada, alan = person_number("photos/ada"), person_number("photos/alan")
    assert persons is not None and persons.tolist() == [ada, ada, alan, alan]
    assert made.prepared.people == 2


def test_the_description_names_the_networks(made: Made, pack: Path) -> None:
    info = PortraitDataset.open(made.folder).info
    tower = ClipVision.from_pretrained(pack / "clip_vision")
    assert (info.face_encoder, info.face_width, info.image_size) == ("opencv-yunet-sface", 128, RULES.size)
    assert (info.clip_vision, info.clip_vision_fingerprint) == ("clip_vision", tower.fingerprint)
    assert info.vae == vae_fingerprint(pack / "sdxl") == vae_fingerprint(pack / "sdxl" / "vae")
    assert str(pack) not in info.model_dump_json()


def test_the_report_shows_everything_and_runs_nothing(made: Made) -> None:
    page = made.prepared.report.read_text(encoding="utf-8")
    # It says how many, why, and shows each reason's picture
    assert "4 portraits to train on, out of 13 photos" in page
    for code, count in made.prepared.dropped.items():
        assert f"<code>{code} · {count}</code>" in page
    assert page.count("data:image/jpeg;base64,") == len(GOOD) + len(FAULTS) + 2
    assert page.count("no picture</div>") == 1
    # What came with the photos is text
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page
    # And nothing is loaded from anywhere: no script, no link, no address but the thumbnails'
    assert "default-src 'none'; img-src data:" in page
    assert re.findall(r"<(?:script|link|iframe|object|form|a)\b", page) == []
    assert {source[:5] for source in re.findall(r'(?:src|href)="([^"]*)', page)} == {"data:"}


def test_what_is_finished_is_not_made_again(made: Made, tmp_path: Path) -> None:
    # Given a set that lost its description, one block's record, and was left in the middle of writing
    before = files(made.folder)
    out = shutil.copytree(made.folder, tmp_path / "set")
    (out / "dataset.json").unlink()
    (out / ".prepare" / "00001.json").unlink()
    (out / ".00001.tar.part").write_bytes(b"half")
    # When the same is prepared again
    progress: list[tuple[int, int]] = []
    again = prepare(replace(made.wanted, out=out), on_photo=lambda done, total: progress.append((done, total)))
    # Then only that block is made, and the set is what it was, byte for byte
    assert (again.made, again.resumed) == (1, 2)
    assert progress == [(7 + done, 13) for done in range(1, 7)]
    assert files(out) == before
    assert not list(out.glob(".*.part"))


def test_other_settings_or_photos_are_refused(made: Made, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetConflict, match=r"min_face 40 \(now 41\)"):
        prepare(replace(made.wanted, rules=replace(RULES, min_face=41)))
    changed = shutil.copytree(photos, tmp_path / "photos")
    (changed / "ada" / "1.txt").write_text("another caption")
    with pytest.raises(DatasetConflict, match=r"block 0 .* other photos"):
        prepare(replace(made.wanted, inputs=(changed,)))
    with pytest.raises(InvalidRequest, match="one of the inputs"):
        prepare(replace(made.wanted, inputs=(made.folder,)))


def test_two_processes_make_the_same_set(photos: Path, tmp_path: Path) -> None:
    # Given the same photos prepared by one process and by two
    wanted = Preparation((photos / "ada",), tmp_path / "one", RULES, WITHOUT_NETWORKS, shard_size=3)
    one = prepare(wanted)
    two = prepare(replace(wanted, out=tmp_path / "two"), workers=2)
    # Then the bytes are the same; and folders inside a single person's are no people
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (one.info.count, two.made, two.people) == (2, 2, 0)
    assert PortraitDataset.open(wanted.out).persons is None


def test_shards_are_prepared_again(made: Made, tmp_path: Path) -> None:
    # Given a prepared set as input, with a template that asks for what its records do not say
    rules = Rules(size=64, min_face=20, min_side=64, captions="template", templates=("{age}", "somebody"))
    again = prepare(Preparation((made.folder,), tmp_path, rules, WITHOUT_NETWORKS))
    # Then people and origins stay, and captions are the template's
    found, before = PortraitDataset.open(tmp_path), PortraitDataset.open(made.folder)
    assert again.info.count == len(before) and found.persons is not None and before.persons is not None
    assert found.persons.tolist() == before.persons.tolist()
    assert [found.face(row)["source"] for row in range(4)] == [before.face(row)["source"] for row in range(4)]
    assert {found.caption(row) for row in range(4)} == {"somebody"} and found.image(0).size == (64, 64)


def test_nothing_kept_is_an_error_with_a_report(photos: Path, tmp_path: Path) -> None:
    wanted = Preparation((photos / "ada",), tmp_path, Rules(size=4096, min_side=200), WITHOUT_NETWORKS)
    with pytest.raises(DatasetMissing, match="none of 5 photos was kept"):
        prepare(wanted)
    assert "small_photo" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "dataset.json").exists()


def test_inputs_that_cannot_be_read(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing, match="neither"):
        prepare(Preparation((tmp_path / "nowhere",), tmp_path / "set"))
    wanted = Preparation((photos,), tmp_path / "set", RULES, EncoderNames(clip_vision=str(photos)))
    with pytest.raises(WeightsMissing, match="CLIP vision folder"):
        prepare(wanted)
    with pytest.raises(InvalidRequest, match="stands for a label"):
        prepare(replace(wanted, rules=Rules(captions="template", templates=("{",))))


def test_a_folder_serves_without_preparation(made: Made, photos: Path, pack: Path, analyzer: FaceAnalyzer) -> None:
    # Given the same photos, looked at but not stored
    tower = ClipVision.from_pretrained(pack / "clip_vision")
    live = LivePortraits(photos, analyzer, tower, RULES, clip_vision="clip_vision")
    stored = PortraitDataset.open(made.folder)
    assert isinstance(live, Portraits) and len(live) == len(stored)
    assert live.persons is not None and stored.persons is not None
    assert live.persons.tolist() == stored.persons.tolist()
    assert (live.info.clip_tokens, live.info.face_width) == (stored.info.clip_tokens, stored.info.face_width)
    # When another photo of the same person is the reference
    found, wanted = (each.batch([0, 3], references=[1, 2], pixels=True) for each in (live, stored))
    # Then the batch is the one of the prepared set, up to half precision and JPEG
    assert found.captions == wanted.captions and found.latents_BCHW is None
    for name in ("clip_tokens_BTC", "base_tokens_BTC", "face_embeddings_BE"):
        torch.testing.assert_close(getattr(found, name).float(), getattr(wanted, name).float(), atol=5e-3, rtol=2e-3)
    assert found.pixels_B3HW is not None and wanted.pixels_B3HW is not None
    assert (found.pixels_B3HW - wanted.pixels_B3HW).abs().mean() < 0.03


def test_a_changed_shard_is_found(made: Made, tmp_path: Path) -> None:
    # Given a sound set
    assert inspect(made.folder).faults == ()
    # When one byte of a picture changes, and a shard's tensors vanish
    out = shutil.copytree(made.folder, tmp_path / "set")
    content = bytearray((out / "00000.tar").read_bytes())
    content[1000] ^= 1
    (out / "00000.tar").write_bytes(content)
    (out / f"{made.prepared.info.shards[-1].name}.safetensors").unlink()
    # Then both are told
    first, second = inspect(out).faults
    assert first.startswith("00000.tar has changed") and second.endswith("safetensors is missing")
