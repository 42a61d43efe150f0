"""Who is in the pictures of one group, with which weights: one person, a mix, or several people side by side.

What only some renders need (a slider, Base-LoRA) is obtained when the first batch asks for it, so that a fault of its
own fails those renders and no others.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hyperlora.faces.types import Face
from jobs.options import Picture
from jobs.repository.units import ClaimedUnit
from jobs.repository.weight_sets import Source
from worker.errors import BatchAbandoned
from worker.pictures import GivenPictures
from worker.plan import BatchKey
from worker.renderer import Place
from worker.weight_making import Weights
from worker.weights import Request, WeightSets

Stack = tuple[tuple[Any, float], ...]
HALF_WHITE = 128


@dataclass(frozen=True)
class Role:
    """One person of the pictures: the photo set, the weights, and in a picture of several where and with what words."""

    source: Source
    weights: Weights
    region: Any = None  # [left, top, right, bottom] in shares of the picture, {"mask": picture}, or None: everywhere
    prompt: str = ""


@dataclass(frozen=True)
class _Part:
    """One person of the pictures, whose weights are still to be had."""

    source: Source
    region: Any = None
    prompt: str = ""


@dataclass(frozen=True)
class _Parts:
    """Everybody in the pictures of one unit; `together` where they stand side by side."""

    people: tuple[_Part, ...]
    together: bool

    def roles(self, weights: Sequence[Weights]) -> tuple[tuple[Role, ...], str]:
        """The people with their weights, and a fingerprint of them all."""
        roles = tuple(
            Role(part.source, own, part.region, part.prompt) for part, own in zip(self.people, weights, strict=True)
        )
        if not self.together:
            return roles, roles[0].weights.fingerprint
        told = "\n".join(["together", *(role.weights.fingerprint for role in roles)])
        return roles, hashlib.sha256(told.encode()).hexdigest()


def _parts(unit: ClaimedUnit, weight_sets: WeightSets) -> _Parts | Exception:
    """Who is in a unit's pictures, or why that cannot be told."""
    try:
        source = weight_sets.source(unit.tenant_id, unit.photo_set_id)
        if source.kind != "together":
            return _Parts((_Part(source),), together=False)
        people = [
            _Part(weight_sets.source(unit.tenant_id, member.photo_set_id), member.region, member.prompt or "")
            for member in source.members
        ]
        return _Parts(tuple(people), together=True)
    except Exception as error:  # noqa: BLE001 - it becomes the unit's fault, whatever it was
        return error


class Cast:
    """The people of one group of units."""

    def __init__(
        self,
        tenant: str,
        roles: tuple[Role, ...],
        fingerprint: str,
        weight_sets: WeightSets,
        pictures: GivenPictures,
        still_wanted: Callable[[], bool],
    ) -> None:
        self.roles, self.fingerprint = roles, fingerprint
        self._tenant, self._weight_sets, self._pictures, self._still_wanted = (
            tenant,
            weight_sets,
            pictures,
            still_wanted,
        )
        self._further: dict[tuple[uuid.UUID, str], Weights] = {}
        self._masks: dict[tuple[int, int, int], Image.Image] = {}

    @classmethod
    def obtain(
        cls,
        unit: ClaimedUnit,
        weight_sets: WeightSets,
        pictures: GivenPictures,
        still_wanted: Callable[[], bool],
    ) -> Cast | None:
        """The people of a unit's pictures with their weights; None when nobody wants them any more.

        Raises what `WeightSets.obtain` raises.
        """
        obtained = cls.obtain_many([(unit, still_wanted)], weight_sets, pictures)[0]
        if isinstance(obtained, Exception):
            raise obtained
        return obtained

    @classmethod
    def obtain_many(
        cls,
        wanted: Sequence[tuple[ClaimedUnit, Callable[[], bool]]],
        weight_sets: WeightSets,
        pictures: GivenPictures,
    ) -> list[Cast | Exception | None]:
        """For each unit, and whether it is still wanted, what `obtain` gives or raises; weights are made together."""
        # 1. Whose weights each unit's pictures need.
        parts = [_parts(unit, weight_sets) for unit, _ in wanted]
        # 2. All of them at once.
        requests = [
            Request(unit.tenant_id, part.source, still_wanted)
            for (unit, still_wanted), own in zip(wanted, parts, strict=True)
            if not isinstance(own, Exception)
            for part in own.people
        ]
        answers = iter(weight_sets.obtain_many(requests))
        # 3. To each unit its own.
        casts: list[Cast | Exception | None] = []
        for (unit, still_wanted), own in zip(wanted, parts, strict=True):
            if isinstance(own, Exception):
                casts.append(own)
                continue
            weights = [next(answers) for _ in own.people]
            fault = next((each for each in weights if isinstance(each, Exception)), None)
            had = [each for each in weights if isinstance(each, Weights)]
            if fault is not None or len(had) < len(weights):
                casts.append(fault)
                continue
            roles, fingerprint = own.roles(had)
            casts.append(cls(unit.tenant_id, roles, fingerprint, weight_sets, pictures, still_wanted))
        return casts

    @property
    def tenant(self) -> str:
        """Whose people these are."""
        return self._tenant

    @property
    def seconds(self) -> float:
        """What obtaining the weights took."""
        return sum(role.weights.seconds for role in self.roles)

    @property
    def generated(self) -> int:
        """How many weight sets were generated for this group."""
        return sum(role.weights.source == "generated" for role in self.roles)

    @property
    def references(self) -> list[bytes]:
        """The face to compare pictures with, of each person."""
        return [role.weights.reference_embedding for role in self.roles]

    def merged(self, key: BatchKey) -> Stack:
        """What is merged into the network for a batch: the person's LoRAs, and the sliders."""
        sliders = tuple((self._slider(uuid.UUID(photo_set)), weight) for photo_set, weight in key.sliders)
        if len(self.roles) > 1 and key.member < 0:
            return sliders
        return self._stack(self.roles[max(0, key.member)], key) + sliders

    def places(self, key: BatchKey) -> tuple[Place, ...]:
        """Where each of several people stands; nothing for a picture of one person."""
        if len(self.roles) == 1 or key.member >= 0:
            return ()
        return tuple(
            Place(self._stack(role, key), self._mask(number, key.width, key.height), role.prompt)
            for number, role in enumerate(self.roles)
        )

    def source_of(self, photo_set_id: uuid.UUID) -> Source:
        """What a photo set of this tenant is made of."""
        return self._weight_sets.source(self._tenant, photo_set_id)

    def members_at(self, face: Face, size: tuple[int, int]) -> list[int]:
        """Who may stand where a face is, in a picture of several people; nobody in one of a single person."""
        if len(self.roles) == 1:
            return []
        x = min(max(int((face.box_xyxy[0] + face.box_xyxy[2]) / 2), 0), size[0] - 1)
        y = min(max(int((face.box_xyxy[1] + face.box_xyxy[3]) / 2), 0), size[1] - 1)
        return [n for n in range(len(self.roles)) if np.asarray(self._mask(n, *size))[y, x] >= HALF_WHITE]

    def _stack(self, role: Role, key: BatchKey) -> Stack:
        stack: Stack = ((role.weights.loaded, key.lora_weight),)
        if key.base_weight:
            stack += ((self._obtain(role.source, "base"), key.base_weight),)
        return stack

    def _slider(self, photo_set_id: uuid.UUID) -> Any:
        known = self._further.get((photo_set_id, "id"))
        return known.loaded if known else self._obtain(self.source_of(photo_set_id), "id")

    def _obtain(self, source: Source, branch: str) -> Any:
        place = (source.photo_set_id, branch)
        if place not in self._further:
            weights = self._weight_sets.obtain(self._tenant, source, self._still_wanted, branch=branch)
            if weights is None:
                raise BatchAbandoned
            self._further[place] = weights
        return self._further[place].loaded

    def _mask(self, number: int, width: int, height: int) -> Image.Image:
        place = (number, width, height)
        if place not in self._masks:
            region = self.roles[number].region or (0.0, 0.0, 1.0, 1.0)
            if isinstance(region, Mapping):
                given = Picture.model_validate(region["mask"])
                self._masks[place] = self._pictures.mask(given, width, height, tenant=self._tenant)
            else:
                self._masks[place] = box_mask(region, width, height)
        return self._masks[place]


def box_mask(shares: Sequence[float], width: int, height: int) -> Image.Image:
    """White inside the box given in shares of the picture (left, top, right, bottom), black elsewhere."""
    left, top, right, bottom = shares
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (round(left * width), round(top * height), round(right * width), round(bottom * height)))
    return mask
