"""What is written of a finished picture: into its rows, and into the picture itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from jobs.repository.renders import CandidateRow, Drawn, OutputRow, WaitingRender
from worker.cast import Cast
from worker.outputs import PictureFile
from worker.renderer import Renderer
from worker.spooled import folder_of
from worker.trial import Trial


class Records:
    """Rows and notes of one worker's pictures."""

    def __init__(self, renderer: Renderer, worker_name: str) -> None:
        self._renderer, self._worker_name = renderer, worker_name

    def output(self, render: WaitingRender, file: PictureFile, data: bytes) -> OutputRow:
        """The row of a file whose bytes lie in the store, or are to lie there."""
        return OutputRow(
            name=file.output,
            storage_key=output_key(render, file),
            media_type=file.media_type,
            width=file.width,
            height=file.height,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def candidate(self, render: WaitingRender, file: PictureFile, data: bytes) -> CandidateRow:
        """The row of a picture that was not chosen."""
        candidate = file.candidate
        assert candidate is not None
        key, digest = candidate_key(render, file), hashlib.sha256(data).hexdigest()
        return CandidateRow(candidate.seed, key, digest, len(data), candidate.similarity)

    def drawn(
        self, trial: Trial, cast: Cast, files: Sequence[PictureFile], main: OutputRow, seconds_upload: float
    ) -> Drawn:
        """The columns of the render's row; `main` is its picture."""
        best = trial.best
        assert best is not None
        return Drawn(
            storage_key=main.storage_key,
            media_type=main.media_type,
            size_bytes=main.size_bytes,
            sha256=main.sha256,
            final_prompt=self._final_prompt(trial),
            id_similarity=best.similarity,
            id_similarity_reason=best.reason,
            recogniser=self._renderer.recogniser,
            model_fingerprint=self._renderer.model_fingerprint,
            weight_set_fingerprint=cast.fingerprint,
            device=self._renderer.device,
            worker=self._worker_name,
            batch_size=trial.batch_size,
            seconds_weights=trial.seconds["weights"],
            seconds_merge=trial.seconds["merge"],
            seconds_denoise=trial.seconds["denoise"],
            seconds_decode=trial.seconds["decode"],
            seconds_encode=sum(file.seconds_encode for file in files),
            seconds_upload=seconds_upload,
            drawn_seed=best.seed,
            draws=trial.draws,
            output_width=main.width,
            output_height=main.height,
            seconds_detail=trial.seconds["detail"],
            seconds_finish=sum(file.seconds_finish for file in files),
            detail_faces=best.detail_faces,
        )

    def known(self, trial: Trial, cast: Cast) -> dict[str, object]:
        """What is written into the pictures; what differs between them is added for each."""
        render = trial.render
        asked = ("prompt_name", "negative_prompt", "seed", "width", "height", "steps", "guidance", "scheduler")
        record: dict[str, object] = {name: getattr(render, name) for name in (*asked, "lora_weight")}
        record |= {
            f"seconds_{name}": round(trial.seconds[name], 4) for name in ("merge", "denoise", "decode", "detail")
        }
        record |= {
            "software": "hyperlora-portraits",
            "job": str(render.unit.job_id),
            "render": str(render.id),
            "profile": self._renderer.profile,
            "final_prompt": self._final_prompt(trial),
            "model_fingerprint": self._renderer.model_fingerprint,
            "weight_set_fingerprint": cast.fingerprint,
            "device": self._renderer.device,
            "batch_size": trial.batch_size,
            "draws": trial.draws,
            "seconds_weights": round(trial.seconds["weights"], 4),
            "recogniser": self._renderer.recogniser,
            "safety_checker": self._renderer.checker,
        }
        options = trial.options.told()
        if options:
            record["options"] = options
        if trial.options.start is not None:
            record["strength"] = trial.options.start.strength
        if self._renderer.lossy:
            record["lossy"] = self._renderer.lossy
        if self._renderer.notice:
            record["notice"] = self._renderer.notice
        return record

    def _final_prompt(self, trial: Trial) -> str:
        return self._renderer.final_prompt(trial.render.prompt, trigger_words=trial.options.trigger_words)


def output_key(render: WaitingRender, file: PictureFile) -> str:
    """Where a form of the chosen picture lies."""
    name = f"-{file.output}" if file.output else ""
    return f"{folder_of(render.unit, render.id)}/{render.unit.lease_token}{name}{file.extension}"


def candidate_key(render: WaitingRender, file: PictureFile) -> str:
    """Where a picture lies that was not chosen."""
    assert file.candidate is not None
    attempt = file.candidate.attempt
    return f"{folder_of(render.unit, render.id)}/{render.unit.lease_token}.{attempt}{file.extension}"
