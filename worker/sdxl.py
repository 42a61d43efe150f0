"""The real renderer: HyperLoRA and SDXL on one device."""

from __future__ import annotations

import gc
import logging
import os
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from hyperlora.clip import ClipVision
from hyperlora.compiler import EngineOptions
from hyperlora.components import SDXLComponents
from hyperlora.control import Control, ControlNet
from hyperlora.detail import DetailPass, face_mask, small_faces
from hyperlora.errors import FaceError, NoUsablePhoto, WeightsMissing
from hyperlora.faces import FaceAnalyzer, load_analyzer
from hyperlora.faces.find import find_faces
from hyperlora.faces.keypoints import keypoints_for
from hyperlora.faces.types import Face, FloatArray, same_person_cosine
from hyperlora.grouped import own_rank
from hyperlora.lora import LoRA
from hyperlora.network import HyperLoRA
from hyperlora.pipeline import PortraitPipeline
from hyperlora.pipeline import Sample as PipelineSample
from hyperlora.regional import Region
from hyperlora.safety import SafetyChecker, load_checker
from hyperlora.upscale import Upscaler
from jobs.options import DetailOption
from jobs.photos import decode_photo
from jobs.profiles import Profile
from jobs.settings import Settings
from worker.controls import LoadedControls
from worker.errors import NotInProfile, OutOfMemory, PartUnavailable
from worker.generation import Generation, choice_of
from worker.likeness import embedding_in, likeness
from worker.lossy import lossy_of
from worker.mini_pack import with_weights
from worker.models.pinned import pinned
from worker.renderer import Batch, GeneratedWeights, Order, Person, Photo, Sample, Setting
from worker.vram import Room, face_room, loading_device, make_room
from worker.warming import Warming, engine_options

log = logging.getLogger(__name__)
# Raise it when crops, masks or the face search change what the network is shown: weight sets are then made anew.
PREPROCESSING = "preprocessing-1"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_device(wanted: str) -> str:
    """`auto` is the first CUDA device if there is one, else the CPU."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """What a person calls the device: the GPU's product name, or the processor's kind and cores."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return f"cpu {platform.machine()} x{os.cpu_count()}"


def make_current(device: str) -> None:
    """Make a GPU that is named by its number the current one of this thread.

    Events, streams and libraries that are not told a device take that one, which is the first GPU at first.
    """
    found = torch.device(device)
    if found.type == "cuda" and found.index is not None:
        torch.cuda.set_device(found)


class SdxlRenderer:
    """One profile loaded on one device; used by one drawing thread, what looks at pictures by any."""

    def __init__(
        self,
        profile: Profile,
        settings: Settings,
        *,
        pipeline: PortraitPipeline,
        network: HyperLoRA,
        clip: ClipVision,
        analyzer: FaceAnalyzer,
        checker: SafetyChecker,
        device: str,
        room: Room,
    ) -> None:
        network.require_face_encoder(analyzer.name, analyzer.embedding_size)
        self.profile = profile.name
        self.device = device_name(device)
        self.room = room
        self.batch_size = room.batch_size
        self.notice = profile.notice
        pipeline.use(lossy_of(profile))
        self.lossy = pipeline.lossy.options.told
        self.model_fingerprint = pipeline.fingerprint
        self.hyperlora_fingerprint = network.fingerprint
        self.conditioning = f"{analyzer.name}|{clip.fingerprint}|{PREPROCESSING}"
        self.recogniser = analyzer.name
        self.checker = checker.name
        self._placed: dict[str, Any] = {"device": device, "dtype": pipeline.components.unet.dtype}
        self._given, self._settings, self._pipeline, self._network = profile, settings, pipeline, network
        self._clip, self._analyzer, self._checker = clip, analyzer, checker
        self._generation = Generation(network, clip, analyzer, settings)
        self._guided = float(profile.drawing().get("guidance", 5.0)) > 1.0
        self._warming = Warming(
            pipeline, settings, batch=self.batch_size, guided=self._guided, rank=network.config.rank
        )
        self._controls = LoadedControls(self._load_control)
        self._upscalers: dict[str, Upscaler] = {}
        self._beside = threading.Lock()  # models beside the UNet, used by the threads that look at pictures

    @classmethod
    def load_profile(cls, profile: Profile, settings: Settings) -> SdxlRenderer:
        """Load every part of a profile. Raises WeightsMissing, CheckpointMismatch, FaceEncoderMismatch."""
        profile = pinned(with_weights(profile, settings.home), settings)
        device, dtype = choose_device(settings.device), DTYPES[profile.dtype]
        make_current(device)
        if device == "cpu" and dtype is torch.float16:
            log.warning(
                "profile %s asks for float16, which CPUs draw slowly or not at all; using float32", profile.name
            )
            dtype = torch.float32
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        checker = load_checker(_place(profile.safety), **placed)
        placed["device"] = loading_device(settings, device)
        network = HyperLoRA.from_pretrained(_place(profile.hyperlora), **placed)
        clip = ClipVision.from_pretrained(_place(profile.clip_vision), **placed)
        components = SDXLComponents.load(
            _place(profile.base),
            revision=profile.revision,
            preset=profile.preset,
            preset_weights=_place(profile.preset_weights) if profile.preset_weights else None,
            **placed,
        )
        room = make_room(profile, settings, components, network, clip, device=device)
        return cls(
            profile,
            settings,
            pipeline=PortraitPipeline(
                room.components,
                trigger_words=network.config.trigger_words,
                decode_at_once=room.decode_at_once,
                engine=engine_options(settings, device, device_name(device)),
            ),
            network=network,
            clip=clip,
            room=room,
            analyzer=load_analyzer(
                profile.faces,
                engine_cache=settings.home / "tensorrt",
                **face_room(profile, settings, device).options,
            ),
            checker=checker,
            device=device,
        )

    def warm(self, should_stop: Callable[[], bool]) -> None:
        """Compile for what PORTRAITS_WARM names. Raises CompilationFailed where PORTRAITS_COMPILE names a way."""
        self._warming.before_work(detail_side=self.detail_side(), should_stop=should_stop)

    def when_idle(self, should_stop: Callable[[], bool]) -> None:
        """Compile for the shape that was drawn most often without."""
        self._warming.when_idle(should_stop)

    def forget_texts(self) -> None:
        """Drop the embeddings of prompts."""
        self._pipeline.prompts.forget()

    def forget(self) -> None:
        """Drop the embeddings of prompts, and bring the pristine weights back."""
        self.forget_texts()
        make_current(self._placed["device"])
        self.apply(())
        _give_memory_back()

    @property
    def way(self) -> EngineOptions:
        """How the networks are run."""
        return self._pipeline.engine.options

    def run_with(self, options: EngineOptions, *, side: int) -> None:
        """Run the networks in another way, ready for full batches of this side. Raises CompilationFailed."""
        self._pipeline.run_with(options)
        self._pipeline.engine.warm(side, side, self.batch_size, guided=self._guided)

    def generate(self, kind: str, people: Sequence[Person], *, branch: str = "id") -> GeneratedWeights:
        """A LoRA from photos, a mix or a slider. Raises NoUsablePhoto, PhotoRefused, CheckpointMismatch."""
        made = self.generate_many([Order(kind, people, branch)])[0]
        if isinstance(made, Exception):
            raise made
        return made

    def generate_many(self, orders: Sequence[Order]) -> list[GeneratedWeights | Exception]:
        """What each order asks for, or its fault, through every network together. Raises OutOfMemory."""
        with _memory_told(f"preparing {len(orders)} people"):
            return self._generation.many(orders)

    def load(self, lora: bytes) -> LoRA:
        """A stored LoRA, checked. Raises LoRAMismatch, NonFiniteWeights."""
        return LoRA.from_bytes(lora)

    def apply(self, stack: Sequence[tuple[LoRA, float]]) -> float:
        """Merge, from the pristine weights; seconds. Raises OutOfMemory; nothing is merged then."""
        with self.room.drawing(), _memory_told(f"merging {len(stack)} LoRAs"):
            return self._pipeline.apply(stack)

    def final_prompt(self, prompt: str, *, trigger_words: bool = True) -> str:
        """The prompt with the checkpoint's trigger words."""
        return self._pipeline.final_prompt(PipelineSample(prompt=prompt, seed=0, trigger_words=trigger_words))

    def prompt_chunks(self, sample: Sample) -> int:
        """Lengths of the text encoders that prompt and negative prompt take. Raises PromptSyntax."""
        return self._pipeline.prompt_chunks(_asked(sample))

    def draw(
        self,
        samples: Sequence[Sample],
        setting: Setting,
        *,
        stacks: Sequence[Sequence[tuple[LoRA, float]]] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Batch:
        """Draw one batch. Raises NotInProfile; OutOfMemory after giving the memory back."""
        names = [name for name, *_ in setting.controls]
        regions = [Region(place.stack, place.mask, place.prompt) for place in setting.places]
        try:
            with self.room.drawing():
                nets = self._controls.for_batch(names, partial(self._has_room_beside, samples, setting, stacks))
                drawn = self._pipeline.draw(
                    [_asked(sample) for sample in samples],
                    width=setting.width,
                    height=setting.height,
                    steps=setting.steps,
                    scheduler=setting.scheduler,
                    strength=setting.strength,
                    controls=[Control(net, *terms) for net, (_, *terms) in zip(nets, setting.controls, strict=True)],
                    regions=regions,
                    stacks=stacks,
                    on_step=on_step,
                )
        except torch.OutOfMemoryError as error:
            message = f"{len(samples)} pictures of {setting.width}x{setting.height} do not fit into {self.device}"
            raised = OutOfMemory(message)
            raised.__cause__ = error.with_traceback(None)  # a traceback would keep the batch's tensors alive
        else:
            seconds = drawn.seconds
            given = seconds.get("encode_image", 0.0)  # a start picture's way into latents is the beginning of drawing
            return Batch(drawn.images, seconds["denoise"] + given, seconds["decode"])
        self._controls.keep_only(names)
        _give_memory_back()
        raise raised

    def stand_ins(self, count: int) -> list[LoRA]:
        """LoRAs of random people, as large as real ones, to measure with."""
        dice, config = torch.Generator().manual_seed(0), self._network.config
        shape = (1, self._network.resampler.latents.shape[1], config.bases)
        unit = [torch.nn.functional.normalize(torch.randn(shape, generator=dice), dim=-1) for _ in range(count)]
        return [LoRA.from_bytes(self._network.lora(each.to(**self._placed)).to_bytes()) for each in unit]

    @property
    def default_size(self) -> int:
        """Pixels of a side for which the base model was trained."""
        return self._pipeline.default_size

    def largest_batch(
        self, width: int, height: int, *, guided: bool, given: bool, controls: Sequence[str], loras: int = 1
    ) -> int:
        """The most pictures of this kind that the memory plan has room for; without a plan the profile's batch."""
        config = self._network.config
        return self.room.largest_batch(
            width,
            height,
            guided=guided,
            given=given,
            rank=loras * max(config.rank, config.base_rank or 0),
            controls=self._controls.sizes(controls),
        )

    def _has_room_beside(
        self, samples: Sequence[Sample], setting: Setting, stacks: Sequence[Any] | None, sizes: Sequence[int | None]
    ) -> bool:
        """Whether the memory plan has room for a batch beside ControlNets of so many bytes."""
        return self.room.has_room(
            len(samples),
            setting.width,
            setting.height,
            guided=samples[0].guidance > 1.0,
            given=samples[0].image is not None,
            rank=own_rank(stacks) if stacks else 0,
            controls=sizes,
        )

    def _load_control(self, name: str) -> ControlNet:
        """A ControlNet of the profile. Raises NotInProfile, PartUnavailable."""
        place = _named(self._given.controlnets, name, "ControlNet", "controlnets", self.profile)
        with _parts_told("ControlNet", name, self.profile):
            return ControlNet.from_pretrained(_place(place), **self._placed)

    def detail_side(self) -> int:
        """Pixels of the square in which a small face is redrawn: 896 for a model of 1024."""
        return DetailPass().side_for(self._pipeline.default_size)

    def faces(self, image: Image) -> Sequence[Face]:
        """The faces of a finished picture, best first."""
        return find_faces(self._analyzer, np.asarray(image, dtype=np.uint8))

    def small_faces(
        self, image: Image, faces: Sequence[Face], references: Sequence[bytes], detail: DetailOption
    ) -> Sequence[Face]:
        """The largest face, and others that are like a person of the picture, where they are small."""
        asked = DetailPass(
            strength=detail.strength,
            steps=detail.steps,
            below=float("inf") if detail.when == "always" else detail.below,
            max_faces=detail.faces,
        )
        known = [_embedding(reference) for reference in references]
        least = same_person_cosine(self._analyzer.name)

        def is_person(face: Face) -> bool:
            found = embedding_in(self._analyzer, image, face)
            return found is not None and max(float(found @ reference) for reference in known) >= least

        return small_faces(faces, self._pipeline.default_size, asked, is_person=is_person)

    def similarity(
        self, image: Image, faces: Sequence[Face], references: Sequence[bytes]
    ) -> tuple[float | None, str | None]:
        """Cosine between the picture's face and the reference; of several people the least of their best ones."""
        return likeness(self._analyzer, image, faces, [_embedding(reference) for reference in references])

    def most_alike(self, image: Image, face: Face, references: Sequence[bytes]) -> int | None:
        """Which of the references a face of a picture is most like; None when it cannot be measured."""
        found = embedding_in(self._analyzer, image, face)
        if found is None:
            return None
        return int(np.argmax([float(found @ _embedding(reference)) for reference in references]))

    def refusal(self, image: Image) -> str | None:
        """What the profile's safety checker says against the picture. Raises OutOfMemory."""
        with self._beside, _memory_told(f"checking a picture of {image.width}x{image.height}"):
            return self._checker.check([image])[0]

    def upscale(self, image: Image, name: str) -> Image:
        """The picture enlarged. Raises NotInProfile, UpscalerMismatch, PartUnavailable, OutOfMemory."""
        with self._beside, _memory_told(f"upscaling a picture of {image.width}x{image.height}"):
            if name not in self._upscalers:
                place = _named(self._given.upscalers, name, "upscaler", "upscalers", self.profile)
                with _parts_told("upscaler", name, self.profile):
                    self._upscalers[name] = Upscaler.from_file(Path(place).expanduser(), **self._placed)
            return self._upscalers[name](image)

    def keypoints(self, photos: Sequence[Photo], width: int, height: int) -> Image:
        """The key points of the first photo that shows a face. Raises NoUsablePhoto."""
        reasons = []
        for number, photo in enumerate(photos, start=1):
            picture, choice = decode_photo(photo.data, self._settings), choice_of(photo.face)
            try:
                return keypoints_for(self._analyzer, picture, (width, height), face=choice)
            except FaceError as error:
                reasons.append(f"photo {number}: {error}")
        raise NoUsablePhoto(f"no photo shows a face whose key points could be drawn: {'; '.join(reasons)}")

    def face_mask(self, image: Image) -> Image:
        """White where the picture's clearest face is. Raises NoFaceFound."""
        faces = self.faces(image)
        if not faces:
            raise NoUsablePhoto("the given picture shows no face that could be redrawn; name a mask picture instead")
        return face_mask(image.size, faces[0])


@contextmanager
def _parts_told(what: str, name: str, profile: str) -> Iterator[None]:
    """A part that this worker cannot load may be there on another: its log has the place, the row must not."""
    try:
        yield
    except WeightsMissing as error:
        log.error("the %s %s of profile %s cannot be loaded: %s", what, name, profile, error)
        raise PartUnavailable(
            f"the {what} {name!r} of profile {profile} could not be loaded by this worker; its log says why"
        ) from error


@contextmanager
def _memory_told(what: str) -> Iterator[None]:
    """The device's own word for too little memory becomes ours, and what can be given back is."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raised = OutOfMemory(f"{what} does not fit into the device's memory")
        raised.__cause__ = error.with_traceback(None)
    else:
        return
    _give_memory_back()
    raise raised


def _give_memory_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _asked(sample: Sample) -> PipelineSample:
    """The sample as the pipeline knows it: the same fields."""
    return PipelineSample(**{name: getattr(sample, name) for name in Sample.__dataclass_fields__})


def _embedding(stored: bytes) -> FloatArray:
    return np.frombuffer(stored, dtype="<f4")


def _named(known: dict[str, str], name: str, what: str, field: str, profile: str) -> str:
    """The place of a named model of the profile. Raises NotInProfile listing those there are."""
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise NotInProfile(
            f"the profile {profile} has no {what} {name!r}, only: {listed}; add it to [profiles.{profile}.{field}]"
        )
    return known[name]


def _place(name: str) -> str:
    """A local path with `~` expanded, or a hub id as it is."""
    expanded = Path(name).expanduser()
    return str(expanded) if expanded.exists() else name
