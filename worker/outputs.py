"""The files of one render: the picture as asked for, further forms of it, and candidates that were not chosen."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL.Image import Image

from hyperlora.faces.types import Face
from jobs.digital_source import DRAWN, REDRAWN, DigitalSource
from jobs.options import OutputOption
from worker.marking.marker import Marker
from worker.picture_file import encode, extension_of, shape
from worker.renderer import Renderer
from worker.trial import Candidate, Trial


@dataclass(frozen=True)
class PictureFile:
    """One encoded picture; `candidate` is set for one that was not chosen, `output` names a further form."""

    output: str
    data: bytes
    media_type: str
    width: int
    height: int
    seconds_finish: float
    seconds_encode: float
    candidate: Candidate | None = None

    @property
    def extension(self) -> str:
        """With the dot."""
        return extension_of(self.media_type)


class Outputs:
    """Makes the files with one renderer's upscalers, and marks them."""

    def __init__(self, renderer: Renderer, marker: Marker | None = None) -> None:
        """Without `marker` they say by IPTC's word alone that they are AI-made."""
        self._renderer, self._encode = renderer, encode if marker is None else marker.encode

    def files(self, trial: Trial, known: Mapping[str, Any]) -> list[PictureFile]:
        """The chosen picture in every form asked for, the main one first; each enlargement is made once."""
        best, enlarged = trial.best, dict[str, Image]()
        assert best is not None
        return [
            self._file(best, output, known, enlarged, source=_source(trial), main=number == 0)
            for number, output in enumerate(trial.options.outputs)
        ]

    def loser(self, trial: Trial, candidate: Candidate, known: Mapping[str, Any]) -> PictureFile:
        """A candidate that was not chosen, as it was drawn, in the main file's format."""
        main = trial.options.outputs[0]
        plain = OutputOption(format=main.format, quality=main.quality)
        return replace(self._file(candidate, plain, known, {}, source=_source(trial)), candidate=candidate)

    def _file(
        self,
        candidate: Candidate,
        output: OutputOption,
        known: Mapping[str, Any],
        enlarged: dict[str, Image],
        *,
        source: DigitalSource,
        main: bool = False,
    ) -> PictureFile:
        began = time.perf_counter()
        image, face = candidate.image, candidate.faces[0] if candidate.faces else None
        if output.upscale is not None:
            if output.upscale not in enlarged:
                enlarged[output.upscale] = self._renderer.upscale(image, output.upscale)
            larger = enlarged[output.upscale]
            face = _scaled(face, larger.width / image.width) if face is not None else None
            image = larger
        image = shape(image, crop=output.crop, size=output.size, face=face)
        finished = time.perf_counter()
        record = _record(candidate, image, known)
        data, media_type = self._encode(image, record, format=output.format, quality=output.quality, source=source)
        encoded = time.perf_counter()
        return PictureFile(
            output="" if main else output.name,
            data=data,
            media_type=media_type,
            width=image.width,
            height=image.height,
            seconds_finish=finished - began,
            seconds_encode=encoded - finished,
        )


def _source(trial: Trial) -> DigitalSource:
    """Drawn from nothing, or a picture that was given, redrawn."""
    return DRAWN if trial.options.start is None else REDRAWN


def _record(candidate: Candidate, image: Image, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of this very picture."""
    record = dict(known) | {
        "drawn_seed": candidate.seed,
        "id_similarity": candidate.similarity,
        "id_similarity_reason": candidate.reason,
    }
    if candidate.detail_faces:
        record["detail_faces"] = candidate.detail_faces
    if image.size != candidate.image.size:
        record |= {"output_width": image.width, "output_height": image.height}
    return record


def _scaled(face: Face, factor: float) -> Face:
    """The face in a picture that was enlarged by this factor."""
    small = face.points_106_2
    return replace(
        face,
        box_xyxy=(face.box_xyxy * factor).astype(np.float32),
        points_5_2=(face.points_5_2 * factor).astype(np.float32),
        points_106_2=None if small is None else (small * factor).astype(np.float32),
    )
