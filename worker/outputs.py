"""The files of one render: the picture as asked for, further forms of it, and candidates that were not chosen."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL.Image import Image

from hyperlora.faces.types import Face
from jobs.options import OutputOption
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
    """Makes the files with one renderer's upscalers."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def files(self, trial: Trial, known: Mapping[str, Any]) -> list[PictureFile]:
        """The chosen picture in every form asked for, the main one first; then the other candidates as drawn."""
        best, outputs = trial.best, trial.options.outputs
        assert best is not None
        files = [self._file(best, output, known, main=number == 0) for number, output in enumerate(outputs)]
        plain = OutputOption(name="", format=outputs[0].format, quality=outputs[0].quality)
        losers = [replace(self._file(loser, plain, known), candidate=loser) for loser in trial.losers]
        return files + losers

    def _file(
        self, candidate: Candidate, output: OutputOption, known: Mapping[str, Any], *, main: bool = False
    ) -> PictureFile:
        began = time.perf_counter()
        image, face = candidate.image, candidate.faces[0] if candidate.faces else None
        if output.upscale is not None:
            enlarged = self._renderer.upscale(image, output.upscale)
            face = _scaled(face, enlarged.width / image.width) if face is not None else None
            image = enlarged
        image = shape(image, crop=output.crop, size=output.size, face=face)
        finished = time.perf_counter()
        data, media_type = encode(image, _record(candidate, image, known), format=output.format, quality=output.quality)
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
