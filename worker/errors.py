"""What can go wrong while a unit is drawn.

WorkerError
├── OutOfMemory       the batch does not fit; a smaller one may        (retryable)
├── PeopleOutOfMemory one person's photos do not fit beside the drawing (retryable)
├── BatchAbandoned    every unit of the batch was taken or cancelled   (retryable)
├── PoolRefused       a pool or concurrency that would share one GPU
├── GpusNotThere      GPUs were named that this machine does not have
├── CalibrationImpossible  nothing can be measured with this profile
├── ContentRefused    the safety checker refused what was drawn
├── PartUnavailable   a ControlNet or upscaler that this worker cannot load (retryable)
├── NotInProfile      a ControlNet or upscaler that the worker's profile does not have
├── LicenceNotAccepted  weights were to be downloaded whose licence nobody has accepted
├── HubUnavailable    the Hugging Face hub does not answer, or lacks what was asked for (retryable)
├── ModelDamaged      a downloaded file is not what the hub says it is
├── ModelsNoRoom      the disk has no room for weights that are to be downloaded
├── LockInvalid       models.lock cannot be read or written
├── WeightSetDamaged  a stored weight set is not what was recorded     (retryable)
├── MarkingBroken     pictures cannot be marked as AI-made              (retryable)
├── WatermarkImpossible  a picture that is too small for a watermark
├── SpoolFull         no room for further finished pictures on this disk (retryable)
├── SpoolUnusable     the folder for finished pictures cannot be used   (retryable)
└── SpoolDamaged      a picture that was put aside is not what was written
"""

from __future__ import annotations


class WorkerError(Exception):
    """The worker could not go on."""

    code = "worker"
    retryable = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class OutOfMemory(WorkerError):
    """The batch does not fit into the device's memory."""

    code = "out_of_memory"
    retryable = True


class PeopleOutOfMemory(WorkerError):
    """One person's photos alone do not fit into the device's memory beside what is drawn."""

    code = "people_out_of_memory"
    retryable = True


class BatchAbandoned(WorkerError):
    """Every unit of the batch was taken over or cancelled meanwhile."""

    code = "batch_abandoned"
    retryable = True


class PoolRefused(WorkerError):
    """The worker would run several processes on one device."""

    code = "pool_refused"


class GpusNotThere(WorkerError):
    """GPUs were named that this machine does not have."""

    code = "gpus_not_there"


class CalibrationImpossible(WorkerError):
    """Nothing can be measured with this profile."""

    code = "calibration_impossible"


class ContentRefused(WorkerError):
    """The safety checker refused what was drawn."""

    code = "refused_content"


class NotInProfile(WorkerError):
    """The worker's profile does not have what the render asks for."""

    code = "not_in_profile"


class PartUnavailable(WorkerError):
    """This worker cannot load a ControlNet or upscaler of its profile; another one may."""

    code = "part_unavailable"
    retryable = True


class WeightSetDamaged(WorkerError):
    """A stored weight set is not what was recorded."""

    code = "weight_set_damaged"
    retryable = True


class MarkingBroken(WorkerError):
    """Pictures cannot be marked as AI-made, so none is shipped."""

    code = "marking_broken"
    retryable = True


class WatermarkImpossible(WorkerError):
    """The picture is too small for a watermark."""

    code = "watermark_impossible"


class LicenceNotAccepted(WorkerError):
    """A licence is not accepted."""

    code = "licence_not_accepted"


class HubUnavailable(WorkerError):
    """The Hugging Face hub does not answer."""

    code = "hub_unavailable"
    retryable = True


class ModelDamaged(WorkerError):
    """A downloaded file is not what the hub says it is."""

    code = "model_damaged"


class ModelsNoRoom(WorkerError):
    """The disk has no room for the weights that are to be downloaded."""

    code = "models_no_room"


class LockInvalid(WorkerError):
    """The lock file of models cannot be read or written."""

    code = "models_lock_invalid"


class SpoolFull(WorkerError):
    """No room is left for further finished pictures that wait on this machine."""

    code = "spool_full"
    retryable = True


class SpoolUnusable(WorkerError):
    """The folder for finished pictures that wait on this machine cannot be used."""

    code = "spool_unusable"
    retryable = True


class SpoolDamaged(WorkerError):
    """A picture that was put aside is not what was written."""

    code = "spool_damaged"


INTERNAL = "internal"


def code_of(error: BaseException) -> str:
    """The stable code of an error of any of the three packages; `internal` for what nobody foresaw."""
    return str(getattr(error, "code", INTERNAL)) if _ours(error) else INTERNAL


def is_retryable(error: BaseException) -> bool:
    """Whether trying again may help. What nobody foresaw is tried again, up to the cap of attempts."""
    return bool(getattr(error, "retryable", True)) if _ours(error) else True


def _ours(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in {"hyperlora", "jobs", "worker"}
