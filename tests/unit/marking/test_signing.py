"""Every picture is signed; the library's own reader sees by whom, and whether a single bit was changed since."""

from __future__ import annotations

import io
import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import c2pa
import numpy as np
import pytest
from marking_world import KEYS, RECORD, picture, settings, write_pair
from PIL import Image

from jobs.digital_source import DRAWN, REDRAWN, DigitalSource, source_of
from worker.errors import MarkingBroken
from worker.marking.credentials import load_credentials
from worker.marking.marker import Marker
from worker.marking.provenance import read_provenance
from worker.marking.self_made import AUTHORITY, CERTIFICATE, FOLDER, KEY
from worker.picture_file import Format, record_of

FORMATS: tuple[Format, ...] = ("png", "jpeg", "webp")


@pytest.fixture
def marker(tmp_path: Path) -> Marker:
    return Marker(settings(tmp_path), version="1.2.3")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("source", [DRAWN, REDRAWN])
def test_the_librarys_reader_finds_who_signed_what_kind_of_picture(
    marker: Marker, tmp_path: Path, form: Format, source: DigitalSource
) -> None:
    # Given a picture that was marked
    data, media_type = marker.encode(picture(), RECORD, format=form, source=source)

    # When the library's reader reads it, without our code
    reader = c2pa.Reader(media_type, io.BytesIO(data))
    manifest = reader.get_active_manifest()

    # Then the signature holds, and the manifest says by IPTC's word that AI made it, with what
    assert manifest is not None and reader.get_validation_state() == "Valid"
    assert manifest["claim_generator_info"][0]["name"] == "hyperlora-portraits"
    assert manifest["claim_generator_info"][0]["version"] == "1.2.3"
    (actions,) = [one["data"]["actions"] for one in manifest["assertions"] if one["label"].startswith("c2pa.actions")]
    assert [(one["action"], one["digitalSourceType"].rpartition("/")[2]) for one in actions] == [
        ("c2pa.created", source)
    ]

    # And the picture's own words and its record are there still, and its pixels are whole
    found = Image.open(io.BytesIO(data))
    assert source_of(found) == source and record_of(found) == RECORD
    if form == "png":
        assert np.array_equal(np.asarray(found), np.asarray(picture()))
        assert str(found.info["parameters"]).startswith("PROMPT OF ADA")


def test_the_manifest_tells_nothing_of_person_prompt_or_job(tmp_path: Path) -> None:
    # Given pictures that are to be published
    marker = Marker(settings(tmp_path, embed_record="none"), version="1")
    for form in FORMATS:
        data, media_type = marker.encode(picture(), RECORD, format=form)

        # Then neither the file nor what the reader makes of its manifest names any of it
        told = c2pa.Reader(media_type, io.BytesIO(data)).detailed_json()
        for secret in ("PROMPT OF ADA", "job-id-of-ada", "b" * 64):
            assert secret not in told and secret.encode() not in data
        assert read_provenance(data, media_type).model == "a" * 64


@pytest.mark.parametrize("form", FORMATS)
def test_a_changed_bit_anywhere_is_seen(marker: Marker, form: Format) -> None:
    # Given a signed picture
    data, media_type = marker.encode(picture(), RECORD, format=form)
    assert read_provenance(data, media_type).state == "valid"

    # When one bit of its pixels is changed: the last bytes of the last data chunk
    changed = bytearray(data)
    where = data.rindex(b"IEND") - 12 if form == "png" else data.rindex(b"VP8 ") + 60 if form == "webp" else -20
    changed[where] ^= 1

    # Then the signature does not hold, and the reader says that the data differ
    found = read_provenance(bytes(changed), media_type)
    assert found.state == "invalid" and not found.holds
    assert "assertion.dataHash.mismatch" in [code for code, _ in found.faults]


def test_a_picture_whose_inside_was_stripped_is_said_to_be_unsigned(marker: Marker) -> None:
    # Given a signed picture that somebody has saved anew
    data, media_type = marker.encode(picture(), RECORD)
    stripped = io.BytesIO()
    Image.open(io.BytesIO(data)).save(stripped, "PNG")

    # Then there is no manifest, which is told, and is no fault of the reader
    found = read_provenance(stripped.getvalue(), media_type)
    assert found.state == "none" and "stripped" in found.words


@pytest.mark.parametrize("kind", KEYS)
def test_an_own_certificate_signs_and_is_trusted_by_whoever_trusts_its_authority(kind: str, tmp_path: Path) -> None:
    # Given a certificate and key of the operator's
    chain, key, root = write_pair(tmp_path / "own", kind)
    marker = Marker(settings(tmp_path, sign_certificate=chain, sign_key=key), version="1")

    # When a picture is signed
    data, media_type = marker.encode(picture(), RECORD)

    # Then the reader names the signer; it is trusted where its authority is, and not elsewhere
    found = read_provenance(data, media_type, anchors_pem=root.read_bytes())
    assert (found.state, found.signer, found.issuer) == ("trusted", "Studio Ada", "Ada Ltd")
    assert read_provenance(data, media_type).state == "valid"
    other = write_pair(tmp_path / "other", kind)[2].read_bytes()
    assert read_provenance(data, media_type, anchors_pem=other).state == "valid"
    assert not (tmp_path / FOLDER).exists()


def test_the_self_made_certificate_is_made_once_and_is_this_users_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given eight processes' worth of markers that begin at once
    markers = [Marker(settings(tmp_path), version="1") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(lambda one: one.encode(picture(), RECORD), markers))

    # Then all have signed with the same certificate, which says what it is, and the key is no one else's to read
    anchors = (tmp_path / FOLDER / AUTHORITY).read_bytes()
    found = [read_provenance(data, media_type, anchors_pem=anchors) for data, media_type in signed]
    assert {one.state for one in found} == {"trusted"} and "not trusted" in str(found[0].issuer)
    assert "self-made certificate: readers will say that it is not trusted" in caplog.text
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / FOLDER).iterdir()} == {
        AUTHORITY: 0o600,
        CERTIFICATE: 0o600,
        KEY: 0o600,
    }
    assert [file.name for file in tmp_path.iterdir()] == [FOLDER]


def test_several_threads_sign_with_one_marker(marker: Marker) -> None:
    with ThreadPoolExecutor(4) as pool:
        signed = list(pool.map(lambda seed: marker.encode(picture(seed=seed), RECORD), range(24)))
    assert {read_provenance(data, media_type).state for data, media_type in signed} == {"valid"}


def _broken(kind: str, folder: Path) -> dict[str, Path]:
    chain, key, _ = write_pair(folder / "one")
    other = write_pair(folder / "other")
    if kind == "ran out":
        chain, key, _ = write_pair(folder / "old", valid_days=(-30, -1))
    if kind == "not yet":
        chain, key, _ = write_pair(folder / "young", valid_days=(1, 30))
    if kind == "another's key":
        key = other[1]
    if kind == "self-signed":
        chain.write_bytes(other[2].read_bytes())
    if kind == "no certificate":
        chain.write_text("SECRET")
    if kind == "no key":
        key.write_text("SECRET")
    if kind == "large":
        key.write_bytes(b"SECRET" * 100_000)
    if kind == "gone":
        key.unlink()
    given = {"sign_certificate": chain, "sign_key": key}
    if kind == "alone":
        del given["sign_key"]
    return given


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("ran out", "is valid from"),
        ("not yet", "is valid from"),
        ("another's key", "is not that of the first certificate"),
        ("self-signed", "is not that of the first certificate"),
        ("no certificate", "holds no certificate in PEM"),
        ("no key", "holds no private key in PEM"),
        ("large", "more than 262144 bytes"),
        ("gone", "cannot be read"),
        ("alone", "PORTRAITS_SIGN_KEY is not set"),
    ],
)
def test_a_broken_pair_is_told_in_words_and_ships_nothing(kind: str, told: str, tmp_path: Path) -> None:
    # Given a certificate or a key that cannot sign
    marker = Marker(settings(tmp_path, **_broken(kind, tmp_path)), version="1")

    # Then check and encode both say what is wrong, under a stable code, and the marker holds the worker back
    for act in (marker.check, lambda: marker.encode(picture(), RECORD)):
        with pytest.raises(MarkingBroken, match=told) as refused:
            act()
        assert refused.value.code == "marking_broken" and refused.value.retryable
        assert "SECRET" not in str(refused.value)
    assert marker.holds_back


def test_a_key_shows_itself_nowhere(tmp_path: Path) -> None:
    chain, key, _ = write_pair(tmp_path / "own")
    found = load_credentials(settings(tmp_path, sign_certificate=chain, sign_key=key))
    secret = key.read_text().splitlines()[1]
    assert secret not in repr(found) + str(found) and secret in found.key_pem.decode()


def test_mended_files_are_found_without_a_restart(tmp_path: Path) -> None:
    # Given a certificate that has run out
    chain, key, _ = write_pair(tmp_path / "own", valid_days=(-30, -1))
    changes: list[bool] = []
    marker = Marker(
        settings(tmp_path, sign_certificate=chain, sign_key=key),
        version="1",
        on_change=lambda: changes.append(marker.holds_back),
    )
    with pytest.raises(MarkingBroken):
        marker.check()

    # When a renewed pair lies in its place
    write_pair(tmp_path / "own")
    marker.check()

    # Then it signs, and each change was told once
    assert marker.fault is None and changes == [True, False]
    assert read_provenance(*marker.encode(picture(), RECORD)).state == "valid"


@pytest.mark.parametrize("form", FORMATS)
def test_where_marking_is_not_required_an_unsigned_picture_says_so(
    form: Format, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a signer that is broken, and an operator who ships all the same
    marker = Marker(settings(tmp_path, marking_required=False, **_broken("gone", tmp_path)), version="1")
    marker.check()

    # When two pictures are made
    marker.encode(picture(), RECORD, format=form)
    data, media_type = marker.encode(picture(), RECORD, format=form)

    # Then they have IPTC's word, say in their record that they are unsigned, and the log says so once
    found = Image.open(io.BytesIO(data))
    assert source_of(found) == DRAWN and record_of(found)["unsigned"] == "marking_broken"
    assert read_provenance(data, media_type).state == "none"
    assert not marker.holds_back and marker.fault is not None
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "shipped unsigned" in caplog.text


def test_signing_can_be_switched_off(tmp_path: Path) -> None:
    marker = Marker(settings(tmp_path, sign="off"), version="1")
    marker.check()
    data, media_type = marker.encode(picture(), RECORD)
    assert read_provenance(data, media_type).state == "none"
    assert source_of(Image.open(io.BytesIO(data))) == DRAWN
    assert list(tmp_path.iterdir()) == []


class _Counting(BaseHTTPRequestHandler):
    """Answers nothing useful, and notes who asked for what."""

    asked: list[str]

    def _answer(self) -> None:
        self.asked.append(self.path)
        self.send_error(503)

    do_GET = do_POST = do_HEAD = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> object:
    """A server that notes what it is asked for."""
    handler = type("Handler", (_Counting,), {"asked": []})
    running = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_reading_a_strangers_picture_fetches_nothing(server: HTTPServer, tmp_path: Path) -> None:
    # Given a picture of somebody else's, whose manifest is said to lie on a server
    credentials = load_credentials(settings(tmp_path))
    told = c2pa.C2paSignerInfo("es256", credentials.chain_pem, credentials.key_pem, None)
    context = c2pa.Context(settings=c2pa.Settings.from_dict({"version": 1}), signer=c2pa.Signer.from_info(told))
    action = {
        "action": "c2pa.created",
        "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/humanEdits",
    }
    manifest = {
        "claim_generator_info": [{"name": "stranger", "version": "1"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    plain, signed = io.BytesIO(), io.BytesIO()
    picture().save(plain, "PNG")
    builder = c2pa.Builder.from_json(json.dumps(manifest), context)
    builder.set_no_embed()
    builder.set_remote_url(f"http://127.0.0.1:{server.server_port}/manifest.c2pa")
    builder.sign("image/png", io.BytesIO(plain.getvalue()), signed)
    assert f"{server.server_port}/manifest.c2pa".encode() in signed.getvalue()

    # When it is read
    found = read_provenance(signed.getvalue(), "image/png")

    # Then nobody was asked, and nothing is taken for proven
    assert server.RequestHandlerClass.asked == []  # type: ignore[attr-defined]
    assert not found.holds


def test_a_time_stamp_authority_that_is_away_ships_nothing(
    server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an authority that answers each request with an error
    monkeypatch.setattr("worker.marking.marker.FIRST_WAIT_SECONDS", 0.001)
    url = f"http://127.0.0.1:{server.server_port}/stamp"
    marker = Marker(settings(tmp_path, sign_timestamp_url=url), version="1")

    # Then it is asked a few times, and the picture is not shipped
    with pytest.raises(MarkingBroken):
        marker.encode(picture(), RECORD)
    assert len(server.RequestHandlerClass.asked) >= 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(200), bytes(1000)])
@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
def test_garbage_is_no_signature(data: bytes, media_type: str) -> None:
    assert read_provenance(data, media_type).state in ("none", "invalid")


def test_manifests_that_are_cut_or_scrambled_never_hold(marker: Marker) -> None:
    # Given a signed picture
    data, media_type = marker.encode(picture(16, 16), RECORD)
    begin = data.index(b"caBX")

    # When its manifest is cut anywhere, or what it tells is changed
    cut = [data[:where] for where in range(begin, begin + 3000, 150)]
    told = (b"trainedAlgorithmicMedia", b"hyperlora-portraits", b"a" * 64, b"c2pa.created", b"sha256")
    changed = [_flipped(data, data.index(word, begin) + 3) for word in told]

    # Then none is taken for a signature that holds
    assert [one for one in cut + changed if read_provenance(one, media_type).holds] == []


def test_no_scrambled_manifest_ends_the_reader(marker: Marker) -> None:
    """What is padding in a manifest may be changed: the signature leaves it out."""
    data, media_type = marker.encode(picture(16, 16), RECORD)
    begin = data.index(b"caBX")
    states = {read_provenance(_flipped(data, where), media_type).state for where in range(begin, begin + 3600, 60)}
    assert "invalid" in states and states <= {"invalid", "valid", "none"}


def _flipped(data: bytes, where: int) -> bytes:
    changed = bytearray(data)
    changed[where] ^= 0xFF
    return bytes(changed)
