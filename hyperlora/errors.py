"""Every error of the model package, one tree.

HyperLoRAError
├── CheckpointMismatch      a checkpoint's tensors do not have the names or shapes they must have
├── LoRAMismatch            a LoRA does not fit the network, the file format or the other LoRA
├── NonFiniteWeights        NaN or infinity in weights
├── FaceEncoderMismatch     embeddings of another face encoder than the checkpoint was trained with
├── WeightsMissing          a model folder, file or hub repository is not there
├── ProviderMissing         ONNX Runtime cannot run on the device that was asked for
├── MemoryTooSmall          a model does not fit into the memory that it may take
├── UnknownScheduler        a scheduler name nobody knows
├── UnknownPreset           a few-step preset nobody knows
├── LossyMismatch           a lossy speed-up that this model or device cannot take
├── ControlMismatch         a ControlNet does not fit the base model
├── UpscalerMismatch        an upscaler's file cannot be used
├── CheckerMismatch         a safety checker cannot be used, or none was chosen by name
├── PromptSyntax            a weighted prompt that cannot be read
├── TrainingConfigInvalid   a training config that cannot be used
├── TrainingMismatch        data, networks and stage of a training do not go together
├── TrainingStateInvalid    a checkpoint that a training cannot go on from
├── TrainingInterrupted     a training was stopped by a signal, its checkpoint written
├── NonFiniteLoss           a training's loss became NaN or infinite
├── PackageMissing          an optional package is asked for and not installed
├── InvalidRequest          a picture was asked for in a way that cannot be drawn (size, steps, mixed guidance)
├── NonFinitePicture        the model's numbers overflowed while drawing
├── CompilationFailed       the UNet cannot be compiled on this machine
├── DatasetError            a data set cannot be used
│   ├── DatasetMissing      there is no data set, or no picture in it
│   ├── DatasetDamaged      its files are not what its description says
│   └── DatasetConflict     the folder holds something else, or was begun with other inputs or settings
└── FaceError
    ├── NoFaceFound         no face in a photo
    ├── BadPhoto            a photo whose face cannot be used
    └── NoUsablePhoto       a person without a single usable photo

Each class has a `code`, a stable word that may be stored and compared, and says by `retryable` whether the same call
can succeed later without anybody changing its input.
"""

from __future__ import annotations

from typing import ClassVar


class HyperLoRAError(Exception):
    """The model could not do what was asked."""

    code: ClassVar[str] = "hyperlora"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class CheckpointMismatch(HyperLoRAError):
    """A checkpoint's tensors do not have the names or shapes they must have."""

    code = "checkpoint_mismatch"


class LoRAMismatch(HyperLoRAError):
    """A LoRA does not fit the network, the file format or the other LoRA."""

    code = "lora_mismatch"


class NonFiniteWeights(HyperLoRAError):
    """Weights contain NaN or infinity."""

    code = "non_finite_weights"


class FaceEncoderMismatch(HyperLoRAError):
    """The embeddings come from another face encoder than the checkpoint was trained with."""

    code = "face_encoder_mismatch"


class WeightsMissing(HyperLoRAError):
    """A model folder, file or hub repository is not there."""

    code = "weights_missing"


class ProviderMissing(HyperLoRAError):
    """ONNX Runtime cannot run on the device that was asked for."""

    code = "provider_missing"


class MemoryTooSmall(HyperLoRAError):
    """The model does not fit into the memory that it may take."""

    code = "memory_too_small"


class UnknownScheduler(HyperLoRAError):
    """Nobody knows a scheduler of this name."""

    code = "unknown_scheduler"


class UnknownPreset(HyperLoRAError):
    """Nobody knows a few-step preset of this name."""

    code = "unknown_preset"


class LossyMismatch(HyperLoRAError):
    """This model or device cannot take the lossy speed-up."""

    code = "lossy_mismatch"


class ControlMismatch(HyperLoRAError):
    """The ControlNet does not fit the base model."""

    code = "control_mismatch"


class UpscalerMismatch(HyperLoRAError):
    """The upscaler's file cannot be used."""

    code = "upscaler_mismatch"


class CheckerMismatch(HyperLoRAError):
    """The safety checker cannot be used, or none was chosen by name."""

    code = "checker_mismatch"


class PromptSyntax(HyperLoRAError):
    """The weighted prompt cannot be read."""

    code = "prompt_syntax"


class TrainingConfigInvalid(HyperLoRAError):
    """The training config cannot be used."""

    code = "training_config_invalid"


class TrainingMismatch(HyperLoRAError):
    """Data, networks and stage of the training do not go together."""

    code = "training_mismatch"


class TrainingStateInvalid(HyperLoRAError):
    """The training cannot go on from what lies in its folder."""

    code = "training_state_invalid"


class TrainingInterrupted(HyperLoRAError):
    """The training was stopped by a signal; its checkpoint is written."""

    code = "training_interrupted"
    retryable = True


class NonFiniteLoss(HyperLoRAError):
    """The loss became NaN or infinite; lower the learning rate, or train in bfloat16 or float32."""

    code = "non_finite_loss"


class PackageMissing(HyperLoRAError):
    """An optional package is asked for and not installed."""

    code = "package_missing"


class InvalidRequest(HyperLoRAError):
    """A picture was asked for in a way that cannot be drawn."""

    code = "invalid_request"


class NonFinitePicture(HyperLoRAError):
    """The model gave NaN or infinity instead of a picture; draw in bfloat16 or float32, or lower the LoRA weight."""

    code = "non_finite_picture"


class CompilationFailed(HyperLoRAError):
    """The UNet cannot be compiled on this machine."""

    code = "compilation_failed"


class DatasetError(HyperLoRAError):
    """The data set cannot be used."""

    code = "dataset"


class DatasetMissing(DatasetError):
    """There is no data set, or no picture in it."""

    code = "dataset_missing"


class DatasetDamaged(DatasetError):
    """The data set's files are not what its description says."""

    code = "dataset_damaged"


class DatasetConflict(DatasetError):
    """The folder holds something else, or was begun with other inputs or settings."""

    code = "dataset_conflict"


class FaceError(HyperLoRAError):
    """A photo's face cannot be used."""

    code = "face"


class NoFaceFound(FaceError):
    """No face was found in the photo."""

    code = "no_face"


class BadPhoto(FaceError):
    """The photo's face cannot be used."""

    code = "bad_photo"


class NoUsablePhoto(FaceError):
    """None of the person's photos can be used."""

    code = "no_usable_photo"
