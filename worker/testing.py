"""Fakes with the real interface, for tests of the queue: no torch, no model, the same calls."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image as PilImage
from PIL.Image import Image

from hyperlora.faces.types import Face
from jobs.options import DetailOption
from worker.errors import NotInProfile, OutOfMemory
from worker.renderer import Batch, GeneratedWeights, Order, Person, Photo, Sample, Setting, Verdict


def no_faces(_image: Image) -> Sequence[Face]:
    """There is no face in a flat colour."""
    return ()


class FakeRenderer:
    """Draws a flat colour that depends on weights, prompt and seed, and counts what it was asked to do.

    `fits` is the largest batch that does not run out of memory; `refuse` raises instead of generating; `step_seconds`
    is how long a denoising step takes; `at_warming` and `at_rest` are called for each thing done before and after work.
    What is seen in finished pictures is told by `faces_in`, `alike` (similarity, None: no face) and `unsafe` (why a
    picture is refused).
    """

    device = "fake"
    model_fingerprint = hashlib.sha256(b"fake model").hexdigest()
    hyperlora_fingerprint = hashlib.sha256(b"fake hyperlora").hexdigest()
    conditioning = "fake"
    recogniser = "fake"
    checker = "none"
    notice: str | None = "fake: flat colours from a test renderer"
    lossy: dict[str, Any] = {}  # noqa: RUF012 - what the seam asks for

    def __init__(
        self,
        profile: str = "fake",
        *,
        batch_size: int = 4,
        fits: int | None = None,
        refuse: Callable[[Sequence[bytes]], Exception | None] = lambda photos: None,
        at_step: Callable[[int], None] = lambda step: None,
        at_warming: Callable[[], None] = lambda: None,
        at_rest: Callable[[], None] = lambda: None,
        step_seconds: float = 0.0,
        faces_in: Callable[[Image], Sequence[Face]] = no_faces,
        alike: Callable[[Image], float | None] = lambda image: None,
        unsafe: Callable[[Image], str | None] = lambda image: None,
    ) -> None:
        self.profile = profile
        self.batch_size = batch_size
        self.calls: Counter[str] = Counter()
        self.batch_sizes: list[int] = []
        self.together: list[int] = []
        self.fits_people: int | None = None
        self.pointed: list[list[Photo]] = []
        self.drawn: list[tuple[Sequence[Sample], Setting]] = []
        self.merged: list[Sequence[tuple[Any, float]]] = []
        self._fits, self._refuse, self._at_step = fits, refuse, at_step
        self._at_warming, self._at_rest = at_warming, at_rest
        self._applied: tuple[tuple[Any, float], ...] | None = None
        self._step_seconds = step_seconds
        self._faces_in, self._alike, self._unsafe = faces_in, alike, unsafe
        self.nearest: Callable[[Face, Sequence[bytes]], int | None] = lambda face, references: 0
        self._pause = threading.Event()

    def warm(self, should_stop: Callable[[], bool]) -> None:
        """Three things to make ready, each counted and told."""
        self._do("warm", self._at_warming, should_stop)

    def when_idle(self, should_stop: Callable[[], bool]) -> None:
        """Three things to do, each counted and told."""
        self._do("idle", self._at_rest, should_stop)

    def forget_texts(self) -> None:
        """Drop the prompts that were drawn."""
        self.drawn = []

    def forget(self) -> None:
        """Drop what was drawn and what is merged."""
        self.calls["forget"] += 1
        self.forget_texts()
        self.merged, self._applied = [], None

    def _do(self, what: str, tell: Callable[[], None], should_stop: Callable[[], bool]) -> None:
        for _ in range(3):
            if should_stop():
                return
            self.calls[what] += 1
            tell()

    def generate(self, kind: str, people: Sequence[Person], *, branch: str = "id") -> GeneratedWeights:
        """A stand-in weight set: the hash of the photos, and for a mix of the weights."""
        self.calls["generate"] += 1
        photos = [photo for person in people for photo in person.photos]
        error = self._refuse(photos)
        if error is not None:
            raise error
        told = b"" if (kind, branch) == ("photos", "id") else f"{kind} {branch} {[p.weight for p in people]}".encode()
        mark = hashlib.sha256(b"".join(photos) + told).digest()
        verdicts = [[Verdict(position, "usable") for position in range(len(person.photos))] for person in people]
        return GeneratedWeights(mark, mark, verdicts)

    def generate_many(self, orders: Sequence[Order]) -> Sequence[GeneratedWeights | Exception]:
        """One after the other; `fits_people` is how many orders do not run out of memory together."""
        if self.fits_people is not None and len(orders) > self.fits_people:
            raise OutOfMemory
        self.calls["generate_many"] += 1
        self.together.append(len(orders))
        return [self._made(order) for order in orders]

    def _made(self, order: Order) -> GeneratedWeights | Exception:
        try:
            return self.generate(order.kind, order.people, branch=order.branch)
        except OutOfMemory:
            raise
        except Exception as error:  # noqa: BLE001 - an order's own fault is its answer
            return error

    def load(self, lora: bytes) -> Any:
        """The stored bytes themselves."""
        self.calls["load"] += 1
        return lora

    def apply(self, stack: Sequence[tuple[Any, float]]) -> float:
        """Remember what is applied; nothing happens when it is already."""
        if self._applied == tuple(stack):
            return 0.0
        self.calls["merge"] += 1
        self.merged.append(stack)
        self._applied = tuple(stack)
        return 1e-6

    def final_prompt(self, prompt: str, *, trigger_words: bool = True) -> str:
        """The prompt itself: there are no trigger words."""
        return prompt

    def prompt_chunks(self, sample: Sample) -> int:
        """One for every 75 words."""
        return 1 + max(len(sample.prompt.split()), len(sample.negative_prompt.split())) // 75

    def draw(
        self,
        samples: Sequence[Sample],
        setting: Setting,
        *,
        stacks: Sequence[Sequence[tuple[Any, float]]] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Batch:
        """Flat pictures."""
        if self._fits is not None and len(samples) > self._fits:
            raise OutOfMemory
        if setting.controls:
            raise NotInProfile(f"the profile {self.profile} has no ControlNet {setting.controls[0][0]!r}")
        began = time.perf_counter()
        for step in range(setting.steps):
            self._at_step(step)
            if self._step_seconds:
                self._pause.wait(self._step_seconds)
            if on_step is not None:
                on_step(step, setting.steps)
        self.calls["draw"] += 1
        self.batch_sizes.append(len(samples))
        self.drawn.append((samples, setting))
        size = (setting.width, setting.height)
        own = [self._applied if stacks is None else tuple(stacks[place]) for place in range(len(samples))]
        self.calls["mixed"] += stacks is not None
        images = [
            PilImage.new("RGB", size, self.colour(sample, setting, stack))
            for sample, stack in zip(samples, own, strict=True)
        ]
        return Batch(images, time.perf_counter() - began, 0.0)

    def colour(self, sample: Sample, setting: Setting, stack: Any = None) -> tuple[int, int, int]:
        """What a sample is drawn as with these LoRAs, or with what is applied now."""
        told = f"{self._applied if stack is None else stack!r} {sample.prompt} {sample.seed} {sample.guidance}"
        if setting.strength < 1:
            told += f" {setting.strength}"
        if setting.places:
            told += repr([(place.stack, place.prompt) for place in setting.places])
        digest = hashlib.sha256(told.encode()).digest()
        return digest[0], digest[1], digest[2]

    def largest_batch(
        self, width: int, height: int, *, guided: bool, given: bool, controls: Sequence[str], loras: int = 1
    ) -> int:
        """The batch size: there is no plan, and `fits` must be found out."""
        return self.batch_size

    def detail_side(self) -> int:
        """Small, as everything here."""
        return 16

    def faces(self, image: Image) -> Sequence[Face]:
        """What `faces_in` says."""
        return self._faces_in(image)

    def small_faces(
        self, image: Image, faces: Sequence[Face], references: Sequence[bytes], detail: DetailOption
    ) -> Sequence[Face]:
        """Those whose box is under a fifth of the picture."""
        return [face for face in faces if detail.when == "always" or face.width < detail.below * image.width]

    def similarity(
        self, image: Image, faces: Sequence[Face], references: Sequence[bytes]
    ) -> tuple[float | None, str | None]:
        """What `alike` says."""
        found = self._alike(image)
        return (None, "no_face") if found is None else (found, None)

    def most_alike(self, image: Image, face: Face, references: Sequence[bytes]) -> int | None:
        """What `nearest` says."""
        return self.nearest(face, references)

    def refusal(self, image: Image) -> str | None:
        """What `unsafe` says."""
        return self._unsafe(image)

    def upscale(self, image: Image, name: str) -> Image:
        """Twice as large by the upscaler `x2`; there is no other."""
        if name != "x2":
            raise NotInProfile(f"the profile {self.profile} has no upscaler {name!r}, only x2")
        return image.resize((image.width * 2, image.height * 2))

    def keypoints(self, photos: Sequence[Photo], width: int, height: int) -> Image:
        """Black: no points; what was asked for is remembered."""
        self.calls["keypoints"] += 1
        self.pointed.append(list(photos))
        return PilImage.new("RGB", (width, height))

    def face_mask(self, image: Image) -> Image:
        """White in the middle."""
        mask = PilImage.new("L", image.size)
        mask.paste(255, (image.width // 4, image.height // 4, image.width * 3 // 4, image.height * 3 // 4))
        return mask
