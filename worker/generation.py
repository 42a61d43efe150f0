"""Weight sets from photos: several orders in one pass over every network, each with its own result or fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch

from hyperlora.clip import ClipVision
from hyperlora.coefficients import concept_slider, mix
from hyperlora.config import Branch
from hyperlora.errors import HyperLoRAError
from hyperlora.faces import FaceAnalyzer, FaceChoice
from hyperlora.faces.types import unit_length
from hyperlora.identity import IdentityConditions
from hyperlora.lora import LoRA
from hyperlora.network import HyperLoRA
from hyperlora.people import PersonPhotos, prepare_identities
from hyperlora.side_by_side import side_by_side
from jobs.photos import decode_photo
from jobs.settings import Settings
from worker.renderer import GeneratedWeights, Order, Person, Verdict

T = TypeVar("T")
U = TypeVar("U")


class Generation:
    """The hypernetwork of a profile, and the networks that read photos for it."""

    def __init__(self, network: HyperLoRA, clip: ClipVision, analyzer: FaceAnalyzer, settings: Settings) -> None:
        self._network, self._clip, self._analyzer, self._settings = network, clip, analyzer, settings
        device = network.resampler.latents.device
        # Else each read of a result would wait for the steps of the pictures that are drawn meanwhile.
        self._stream = cast(Any, torch.cuda.Stream)(device) if device.type == "cuda" else None

    def many(self, orders: Sequence[Order]) -> list[GeneratedWeights | Exception]:
        """What each order asks for, or why it cannot be made: NoUsablePhoto, PhotoRefused, CheckpointMismatch."""
        made: dict[int, GeneratedWeights | Exception] = {}
        if self._stream is not None:  # whatever weights are on their way to the device
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):  # none on a CPU
            self._make(orders, made)
        return [made[place] for place in range(len(orders))]

    def _make(self, orders: Sequence[Order], made: dict[int, GeneratedWeights | Exception]) -> None:
        for branch in dict.fromkeys(order.branch for order in orders):
            places = [place for place, order in enumerate(orders) if order.branch == branch]
            answers = self._of_branch(cast(Branch, branch), [orders[place] for place in places])
            made.update(zip(places, answers, strict=True))

    def _of_branch(self, branch: Branch, orders: Sequence[Order]) -> list[GeneratedWeights | Exception]:
        # 1. Before the photos are looked at: the branch may not be there.
        try:
            self._network.config.rank_of(branch)
        except HyperLoRAError as fault:
            return [fault for _ in orders]
        # 2. Everybody's photos.
        conditions = self._conditions(branch, orders)
        # 3. Everybody's coefficients, then each order's.
        given = zip(orders, self._coefficients(branch, conditions), strict=True)
        rows = [_attempt(self._mixed, each) for each in given]
        # 4. The bases, read once for all.
        loras = self._loras(branch, rows)
        # 5. Each order's LoRA in bytes, beside the face that it is to resemble; the device has done its part.
        return side_by_side(partial(_attempt, self._finished), list(zip(orders, conditions, loras, strict=True)))

    def _conditions(self, branch: Branch, orders: Sequence[Order]) -> list[list[IdentityConditions] | Exception]:
        """For each order those of its people, or the first fault."""
        people = [self._photos(person) for order in orders for person in order.people]
        found = iter(prepare_identities(self._analyzer, self._clip, people, branches=(branch,)))
        out: list[list[IdentityConditions] | Exception] = []
        for order in orders:
            own = [next(found) for _ in order.people]
            faults = [each for each in own if isinstance(each, Exception)]
            out.append(faults[0] if faults else [each for each in own if isinstance(each, IdentityConditions)])
        return out

    def _photos(self, person: Person) -> PersonPhotos:
        openers = [partial(decode_photo, data, self._settings) for data in person.photos]
        return PersonPhotos(openers, [choice_of(face) for face in person.faces])

    def _coefficients(
        self, branch: Branch, conditions: Sequence[list[IdentityConditions] | Exception]
    ) -> list[list[torch.Tensor] | Exception]:
        """For each order (1, Q, K) of each of its people."""
        able = [each for own in conditions if not isinstance(own, Exception) for each in own]
        streams = [self._streams(each, branch) for each in able]
        rows: Iterator[torch.Tensor] = iter(
            self._network.coefficients_many(streams, branch).unsqueeze(1) if able else []
        )
        return [own if isinstance(own, Exception) else [next(rows) for _ in own] for own in conditions]

    def _streams(self, c: IdentityConditions, branch: Branch) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What the branch looks at: faces and masked faces, or the surroundings."""
        if branch == "base":
            return None, c.base_tokens
        streams = self._network.config.streams
        return (c.face_embeddings if "face" in streams else None, c.clip_tokens if "clip" in streams else None)

    def _mixed(self, given: tuple[Order, list[torch.Tensor] | Exception]) -> list[torch.Tensor]:
        """The coefficients that an order's LoRA is made from: a slider's edited and original, else one."""
        order, coefficients = given
        if isinstance(coefficients, Exception):
            raise coefficients
        # One person's lie on the unit sphere already; normalised once more they would differ in the last digit.
        if order.kind == "slider" or len(coefficients) == 1:
            return coefficients
        weights = [person.weight for person in order.people]
        return [mix(list(zip(coefficients, weights, strict=True)))]

    def _loras(self, branch: Branch, rows: Sequence[list[torch.Tensor] | Exception]) -> list[list[LoRA] | Exception]:
        """For each order its LoRAs, on the host."""
        able = [row for own in rows if not isinstance(own, Exception) for row in own]
        mixed = self._network.loras(torch.cat(able), branch) if able else []
        # Whole stacks come over in a few transfers, single layers would in a thousand.
        loras = iter([_on_host(lora) for lora in mixed])
        return [own if isinstance(own, Exception) else [next(loras) for _ in own] for own in rows]

    def _finished(
        self, given: tuple[Order, list[IdentityConditions] | Exception, list[LoRA] | Exception]
    ) -> GeneratedWeights:
        order, conditions, loras = given
        if isinstance(conditions, Exception):
            raise conditions
        if isinstance(loras, Exception):
            raise loras
        lora = concept_slider(*loras) if order.kind == "slider" else loras[0]
        # A slider is compared with nobody; it keeps the face that it was made to resemble.
        shares = [1.0] if order.kind == "slider" else [person.weight for person in order.people]
        references_PE = np.stack([each.reference_embedding for each in conditions[: len(shares)]])
        reference = np.ascontiguousarray(unit_length(np.array(shares) @ references_PE), dtype="<f4").tobytes()
        verdicts = [[Verdict(v.index, v.verdict, v.reason) for v in each.verdicts] for each in conditions]
        return GeneratedWeights(lora.to_bytes(), reference, verdicts, lora)


def choice_of(face: str | None) -> FaceChoice:
    """The face of a photo as rows name it: a word, or a number from left to right."""
    return int(face) if face and face.isdigit() else cast(FaceChoice, face or "clearest")


def _on_host(lora: LoRA) -> LoRA:
    """The LoRA in host memory; whether it is finite is looked at before, on the device, and told when it is written."""
    _ = lora.non_finite_layer
    return lora.to("cpu")


def _attempt(act: Callable[[T], U], item: T) -> U | Exception:
    """What `act` makes of an item, or the fault of that item; the device's lack of memory is nobody's."""
    try:
        return act(item)
    except torch.OutOfMemoryError:
        raise
    except Exception as fault:  # noqa: BLE001 - it becomes the order's fault, whatever it was
        return fault
