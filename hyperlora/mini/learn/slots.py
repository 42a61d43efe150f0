"""The slots: the whole small world in pieces of minutes, each resumable, each leaving files for the next.

drawings    people drawn, for training, validation and the judge
vae         autoencoder
foundation  UNet and text encoders
faces       detector, landmarks, recogniser as ONNX
looks       what CLIP is shown
vision      CLIP's vision tower
rows        the prepared data set
base, id-clip, id-face    HyperLoRA's three stages, by `hyperlora.training`
judge       the independent judge
pack        everything put together, with its card
twin-clip, twin-face    only when asked for: the same without a Base branch, for the claim on what leaks from photos
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from hyperlora.mini.learn import assemble
from hyperlora.mini.learn.card import card_of
from hyperlora.mini.learn.drawings import Drawings, DrawingSet, draw_set
from hyperlora.mini.learn.looks import cut_looks
from hyperlora.mini.learn.sizes import Sizes
from hyperlora.mini.learn.stages import STAGES_FOLDER, TWIN_FOLDER
from hyperlora.mini.vocabulary import TRIGGER_WORDS

if TYPE_CHECKING:
    from hyperlora.mini.learn.checks import Checks

TRAIN, VALIDATION, JUDGE = "train", "validation", "judge"
STAGES = ("base", "id-clip", "id-face")
CHECKED = ("vae", "foundation", "id-clip", "id-face", "twin-clip", "twin-face")
TWINS = {"twin-clip": "id-clip", "twin-face": "id-face"}
JUDGE_FIRST = 500_000
VALIDATION_FIRST = 1_000_000


@dataclass
class Slots:
    """One training of the whole world in a folder.

    Parameters
    ----------
    sizes
        "tiny" or "full".
    work
        Everything that is made on the way.
    pack, judge
        Where the results go.
    device
        Of torch: "cpu", "cuda".
    max_seconds
        A slot ends then, and goes on when it is run again.
    """

    sizes: Sizes
    work: Path
    pack: Path
    judge: Path
    device: str = "cpu"
    max_seconds: float = math.inf
    tell: Callable[[str], None] = print
    seconds: dict[str, float] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """The slots that a pack needs, in order."""
        return (
            "drawings", "vae", "foundation", "faces", "looks", "vision", "rows", *STAGES, "judge", "pack",
        )  # fmt: skip

    def run(self, name: str) -> bool:
        """Run one slot, and note its seconds and figures in `record.json`; False where its time ran out first.

        Raises `KeyError` for an unknown slot, and `FileNotFoundError` where an earlier one is missing.
        """
        todo = {
            "drawings": self._draw, "vae": self._vae, "foundation": self._foundation, "faces": self._faces,
            "looks": self._looks, "vision": self._vision, "rows": self._rows, "judge": self._judge,
            "pack": self._pack, **{stage: self._stage_of(stage) for stage in STAGES},
            **{name: self._stage_of(stage, twin=True) for name, stage in TWINS.items()},
        }[name]  # fmt: skip
        with self._timed(name) as told:
            outcome = todo()
            told.update(outcome)
        finished = bool(outcome.get("finished", True))
        if finished and name in CHECKED:
            self.check(name)
        return finished

    def check(self, name: str) -> dict[str, dict[str, float]]:
        """Measure what a slot brought, on validation people, tell it and note it; nothing where there is no judge.

        Pictures need a decoder: one that still learns blurs them. Raises `ValueError` for a slot that draws nothing.
        """
        if name not in CHECKED:
            raise ValueError(f"the slot {name} is not measured; {', '.join(CHECKED)} are")
        from hyperlora.mini.learn import checks
        from hyperlora.mini.learn.judge import CONFIG, MiniJudge

        if not (self.judge / CONFIG).is_file():
            self.tell(f"{name}: not measured, there is no judge at {self.judge}")
            return {}
        drawn = Drawings.load(self.work / "drawings" / VALIDATION)
        measure = checks.Checks(drawn, MiniJudge.load(self.judge), self.sizes.side, self.device)
        vae = self._trained_vae()
        found = {"autoencoder": measure.autoencoder(vae)} if name == "vae" else self._check_drawing(name, measure, vae)
        for what, told in found.items():
            self.tell(f"{name}, {what}: {checks.shown(told)}")
        self._note(lambda record: record.setdefault("checks", {}).update({name: found}))
        return found

    def _check_drawing(self, name: str, measure: Checks, vae: Any) -> dict[str, dict[str, float]]:
        from hyperlora.components import SDXLComponents
        from hyperlora.network import HyperLoRA
        from hyperlora.pipeline import PortraitPipeline

        parts = SDXLComponents.load(str(self.work / "sdxl"), device=self.device, dtype=torch.float32)
        pipeline = PortraitPipeline(replace(parts, vae=vae.to(self.device)), trigger_words=TRIGGER_WORDS)
        if name == "foundation":
            return {"whole captions": measure.words(pipeline), "a person": measure.nobody(pipeline)}
        place = self.work / (TWIN_FOLDER if name in TWINS else STAGES_FOLDER) / TWINS.get(name, name) / "network"
        network = HyperLoRA.from_pretrained(place, device=self.device)
        return {"photos": measure.photos(pipeline, network, self.work / "clip_vision", self.work / assemble.FACES)}

    @property
    def record(self) -> dict[str, Any]:
        """What the slots noted so far."""
        file = self.work / "record.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    @cached_property
    def drawings(self) -> Drawings:
        """The training set."""
        return Drawings.load(self.work / "drawings" / TRAIN)

    def _sets(self) -> list[DrawingSet]:
        sizes = self.sizes
        drawn, share = 128, sizes.styles
        return [
            DrawingSet(VALIDATION, VALIDATION_FIRST, sizes.validation_people, 4, drawn, 0.0),
            DrawingSet(TRAIN, 0, sizes.people, sizes.each, drawn, share),
            DrawingSet(JUDGE, JUDGE_FIRST, sizes.judge_people, 3, drawn, 0.0),
        ]

    def _draw(self) -> dict[str, Any]:
        for wanted in self._sets():
            draw_set(wanted, self.work / "drawings")
            self.tell(f"drawings: {wanted.name} is there, {len(wanted):,} portraits")
        return {"sets": {wanted.name: len(wanted) for wanted in self._sets()}}

    def _vae(self) -> dict[str, Any]:
        from hyperlora.mini.learn.vae import psnr, small_pixels, train_vae

        vae, outcome = train_vae(self.drawings, self.sizes, self.work, **self._options())
        held_out = Drawings.load(self.work / "drawings" / VALIDATION)
        value = psnr(vae, small_pixels(held_out, self.sizes.side), self.device) if outcome.finished else None
        return {**asdict(outcome), "validation_psnr_db": value}

    def _foundation(self) -> dict[str, Any]:
        from hyperlora.mini.learn.foundation import train_foundation

        foundation, outcome = train_foundation(
            self.drawings, self._latents(), self._tokenizer, self.sizes, self.work, **self._options()
        )
        if outcome.finished:
            vae = self._trained_vae()
            assemble.write_sdxl(self.work / "sdxl", foundation.cpu(), vae.cpu(), self._tokenizer)
        return asdict(outcome)

    def _faces(self) -> dict[str, Any]:
        from hyperlora.mini.learn.face_pack import train_face_pack

        metrics = train_face_pack(
            self.work / "drawings", self.work / assemble.FACES, self.sizes.name, **self._part_options()
        )
        return {"finished": metrics is not None, **(metrics or {})}

    def _looks(self) -> dict[str, Any]:
        return {"pictures": len(self._cut()) * 2}

    def _vision(self) -> dict[str, Any]:
        from hyperlora.mini.learn.vision import train_vision

        tower, outcome = train_vision(self.drawings, self._cut(), self.sizes, self.work, **self._options())
        if outcome.finished:
            assemble.write_clip_vision(self.work / "clip_vision", tower.cpu(), self.sizes.vision_side)
        return asdict(outcome)

    def _rows(self) -> dict[str, Any]:
        from hyperlora.clip import ClipVision
        from hyperlora.mini.learn.rows import write_rows

        tower = ClipVision.from_pretrained(self.work / "clip_vision", device=self.device).model
        folder = write_rows(
            self.drawings, self._cut(), self.work / "rows", latents=self._latents(), tower=tower,
            faces=self.work / assemble.FACES, side=self.sizes.side, device=self.device,
        )  # fmt: skip
        return {"folder": folder.name}

    def _stage_of(self, stage: str, *, twin: bool = False) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            from hyperlora.mini.learn.stages import train_stage

            return train_stage(stage, self.sizes, self.work, twin=twin, **self._options())

        return run

    def _judge(self) -> dict[str, Any]:
        from hyperlora.mini.learn.judge_training import train_judge

        told = train_judge(self.work / "drawings", self.judge, self.sizes.name, **self._part_options())
        return {"finished": told is not None, **(told or {})}

    def _pack(self) -> dict[str, Any]:
        folder = assemble.write_pack(
            self.pack,
            self.sizes,
            vae=self._trained_vae(decodes=True).cpu(),
            sdxl=self.work / "sdxl",
            clip_vision=self.work / "clip_vision",
            faces=self.work / assemble.FACES,
            hyperlora=self.work / STAGES_FOLDER / STAGES[-1] / "network",
            card=card_of(self.sizes, self.record),
            made={"size": self.sizes.name, "seconds": self.record.get("seconds", {})},
        )
        return {"bytes": assemble.check_budget(folder)}

    def _cut(self) -> Any:
        return cut_looks(self.drawings, self.work / "looks" / str(self.sizes.vision_side), self.sizes.vision_side)

    def _trained_vae(self, *, decodes: bool = False) -> Any:
        """The autoencoder; one whose encoder does not learn can encode before its decoder is finished."""
        from hyperlora.mini.learn.vae import train_vae

        vae, outcome = train_vae(self.drawings, self.sizes, self.work, device=self.device, max_seconds=0)
        if not outcome.finished and (decodes or self.sizes.encoder_learns):
            raise FileNotFoundError(f"the slot vae is at step {outcome.steps}; run it to its end first")
        return vae

    def _latents(self) -> torch.Tensor:
        """(N, c, h, w) of the training set, half precision; encoded once for all slots."""
        from hyperlora.mini.learn.vae import encode_all, small_pixels

        file = self.work / "latents.safetensors"
        if not file.exists():
            latents = encode_all(self._trained_vae(), small_pixels(self.drawings, self.sizes.side), self.device)
            save_file({"latents": latents.half().contiguous()}, file)
        return load_file(file)["latents"]

    @cached_property
    def _tokenizer(self) -> Any:
        from hyperlora.mini.learn.words import new_tokenizer

        return new_tokenizer(self.work / "tokenizer")

    def _options(self) -> dict[str, Any]:
        return {"device": self.device, "max_seconds": self.max_seconds, "tell": self.tell}

    def _part_options(self) -> dict[str, Any]:
        seconds = None if math.isinf(self.max_seconds) else self.max_seconds
        return {"device": self.device, "seconds": seconds, "threads": 0 if self.device == "cpu" else 8}

    @contextmanager
    def _timed(self, name: str) -> Iterator[dict[str, Any]]:
        told: dict[str, Any] = {}
        started = time.monotonic()
        yield told
        seconds = time.monotonic() - started

        def note(record: dict[str, Any]) -> None:
            spent = record.setdefault("seconds", {})
            spent[name] = round(spent.get(name, 0.0) + seconds, 1)
            record.setdefault("slots", {})[name] = told

        self._note(note)

    def _note(self, change: Callable[[dict[str, Any]], object]) -> None:
        record = self.record
        change(record)
        record["size"], record["device"] = self.sizes.name, self.device
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8", newline="\n")
