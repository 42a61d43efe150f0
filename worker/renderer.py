"""What the engine asks of whoever draws: the seam between the queue and the model.

`worker.sdxl.SdxlRenderer` is the real one; `worker.testing.FakeRenderer` draws flat colours without torch.

One thread makes ready and draws (`warm`, `apply`, `draw`, `when_idle`); what looks at finished pictures (`faces`,
`small_faces`, `similarity`, `refusal`, `upscale`) is called by any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL.Image import Image

from hyperlora.faces.types import Face
from jobs.options import DetailOption


@dataclass(frozen=True)
class Person:
    """One person as a weight set is made from them: photos, their names for messages, and which face is meant."""

    photos: Sequence[bytes]
    names: Sequence[str]
    faces: Sequence[str | None]  # clearest (also None), largest, central, or a number from left to right
    weight: float = 1.0


@dataclass(frozen=True)
class Order:
    """One weight set to be made: of one person, a mix (several, by weight) or a slider (edited, original)."""

    kind: str
    people: Sequence[Person]
    branch: str = "id"


@dataclass(frozen=True)
class Photo:
    """One photo, and which of its faces is meant: clearest (also None), largest, central, or a number."""

    data: bytes
    face: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What was found in one reference photo: `usable`, `warning` or `refused`, and why."""

    position: int
    verdict: str
    reason: str | None = None


@dataclass(frozen=True)
class GeneratedWeights:
    """A weight set fresh from the hypernetwork: the LoRA as safetensors, and the face to compare pictures with."""

    lora: bytes
    reference_embedding: bytes  # float32, little-endian, unit length
    verdicts: Sequence[Sequence[Verdict]]  # of each person's photos
    loaded: Any = None  # the same as `load` would give it, where it is at hand


@dataclass(frozen=True)
class Sample:
    """What differs between the pictures of one batch."""

    prompt: str
    negative_prompt: str
    seed: int
    guidance: float
    trigger_words: bool = True
    weighted: bool = False
    image: Image | None = None
    mask: Image | None = None
    control: tuple[Image, ...] = ()


@dataclass(frozen=True)
class Place:
    """One of several people in a picture: loaded LoRAs with weights, where (mode L, white), and words for there."""

    stack: tuple[tuple[Any, float], ...]
    mask: Image
    prompt: str = ""


@dataclass(frozen=True)
class Setting:
    """What is equal for all pictures of one batch."""

    width: int
    height: int
    steps: int
    scheduler: str
    strength: float = 1.0
    controls: tuple[tuple[str, float, float, float], ...] = ()  # name in the profile, scale, start, end
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Finished pictures in the order of the samples, and the seconds the whole batch took."""

    images: Sequence[Image]
    seconds_denoise: float
    seconds_decode: float


class Renderer(Protocol):
    """One profile, loaded on one device."""

    profile: str
    device: str
    model_fingerprint: str
    hyperlora_fingerprint: str
    conditioning: str  # whatever else decides a weight set: analyzer, CLIP, preprocessing
    recogniser: str
    checker: str  # the safety checker's name; "none" for none
    batch_size: int
    notice: str | None  # what must be said beside every picture, such as "untrained"
    lossy: dict[str, Any]  # speed-ups that change pictures; empty where they are exact

    def warm(self, should_stop: Callable[[], bool]) -> None:
        """Make ready for the kinds of batches that are drawn most, before the first unit is claimed.

        It may take minutes; `should_stop` is asked between two kinds. What is not warmed is drawn all the same.
        """

    def when_idle(self, should_stop: Callable[[], bool]) -> None:
        """Do what was put off while there was work, such as making ready for what was drawn without.

        Called when nothing waits, with nothing in hand; `should_stop` is asked between two things to do, and is true
        as soon as something waits again.
        """

    def forget_texts(self) -> None:
        """Drop what is remembered of prompts. From any thread, beside a drawing too."""

    def forget(self) -> None:
        """Drop whatever is remembered of texts and people, what is merged too. From any thread, while nothing is drawn
        and nothing generated.
        """

    def generate(self, kind: str, people: Sequence[Person], *, branch: str = "id") -> GeneratedWeights:
        """A LoRA from photos (one person), a mix (several, by weight) or a slider (edited, original).

        Raises FaceError when no photo of a person can be used, CheckpointMismatch for a branch that is not there.
        """

    def generate_many(self, orders: Sequence[Order]) -> Sequence[GeneratedWeights | Exception]:
        """What `generate` makes of each order, or the fault that it would raise for it; together where that is cheaper.

        Raises OutOfMemory where they do not fit together; any other error may be that of one of them.
        """

    def load(self, lora: bytes) -> Any:
        """Make a stored LoRA ready to be applied. Raises LoRAMismatch, NonFiniteWeights."""

    def apply(self, stack: Sequence[tuple[Any, float]]) -> float:
        """Merge loaded LoRAs in place of whatever was merged; returns seconds, 0.0 if they are there already."""

    def final_prompt(self, prompt: str, *, trigger_words: bool = True) -> str:
        """The prompt as it is encoded, trigger words included."""

    def prompt_chunks(self, sample: Sample) -> int:
        """How many lengths of the text encoders the texts take; equal for all samples of a batch."""

    def draw(
        self,
        samples: Sequence[Sample],
        setting: Setting,
        *,
        stacks: Sequence[Sequence[tuple[Any, float]]] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Batch:
        """Draw one batch with what is applied, or with `stacks`, loaded LoRAs of each sample's own.

        Raises OutOfMemory, NotInProfile; what `on_step` raises ends it.
        """

    def largest_batch(
        self, width: int, height: int, *, guided: bool, given: bool, controls: Sequence[str], loras: int = 1
    ) -> int:
        """The most pictures of this kind that are expected to fit, at least 1.

        `controls` are names of ControlNets, `loras` the number of LoRAs that each picture has of its own.
        """

    def detail_side(self) -> int:
        """Pixels of the square in which a small face is redrawn."""

    def faces(self, image: Image) -> Sequence[Face]:
        """The faces of a finished picture, best first."""

    def small_faces(
        self, image: Image, faces: Sequence[Face], references: Sequence[bytes], detail: DetailOption
    ) -> Sequence[Face]:
        """Those of `faces` that are to be redrawn: small, and a person of the picture rather than a passer-by."""

    def similarity(
        self, image: Image, faces: Sequence[Face], references: Sequence[bytes]
    ) -> tuple[float | None, str | None]:
        """Cosine between the picture's face and the reference, of several people the least; None and a reason."""

    def most_alike(self, image: Image, face: Face, references: Sequence[bytes]) -> int | None:
        """Which of the references a face of a picture is most like; None when it cannot be measured."""

    def refusal(self, image: Image) -> str | None:
        """Why the picture must not be kept, None when it may."""

    def upscale(self, image: Image, name: str) -> Image:
        """The picture enlarged by the profile's upscaler of this name. Raises NotInProfile."""

    def keypoints(self, photos: Sequence[Photo], width: int, height: int) -> Image:
        """The key-point picture of the first photo that shows a face. Raises NoUsablePhoto."""

    def face_mask(self, image: Image) -> Image:
        """White where the picture's clearest face is. Raises NoFaceFound."""
