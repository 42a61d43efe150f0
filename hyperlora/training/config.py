"""What a training run is told: one frozen object, read from YAML, written into the training record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hyperlora.errors import TrainingConfigInvalid

Stage = Literal["base", "id-clip", "id-face", "distill"]

Share = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PerSetting(_Part):
    """A number for each of the three settings in which ID-LoRA is trained."""

    reconstruct: Share = Field(description="Trigger words, Base and ID on: the photo's own noise is the target.")
    foundation: Share = Field(description="No trigger words, Base off: the foundation model's prediction.")
    base: Share = Field(description="No trigger words, Base on: the prediction with Base-LoRA alone.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.reconstruct + self.foundation + self.base <= 0:
            raise ValueError("at least one setting needs a number above zero")
        return self


class NetworkSizes(_Part):
    """Sizes of a new hypernetwork; `HyperLoRAConfig` says what they are. Widths of the conditions: see the dataset."""

    rank: int = Field(8, ge=1)
    base_rank: int | None = Field(4, ge=1, description="None: no Base branch, for a twin to compare with.")
    bases: int = Field(128, ge=1)
    width: int = Field(1024, ge=1)
    depth: int = Field(4, ge=1)
    dim_head: int = Field(64, ge=1)
    inner: int = Field(768, ge=1)
    feed_forward: int = Field(4096, ge=1)
    id_tokens: int = Field(16, ge=1)
    id_token_width: int = Field(1024, ge=1)
    alpha_over_rank: float = Field(0.5, gt=0)
    trigger_words: str | None = Field(None, description="None: the released ones.")


class Grids(_Part):
    """Pictures that show how far the training is: the photo, with ID, with ID and Base, without."""

    every: int = Field(0, ge=0, description="Steps; 0 draws none.")
    count: int = Field(4, ge=1, le=64, description="People in a grid, the first of the dataset.")
    steps: int = Field(20, ge=1, description="Denoising steps.")
    guidance: float = Field(5.0, ge=0)
    weight: float = Field(0.8, description="Of the LoRAs.")
    prompt: str | None = Field(None, description="None: each photo's caption.")


class Live(_Part):
    """How photos that are not prepared become conditions: a plain folder or plain webdataset shards as `dataset`."""

    faces: str = Field(description="Face analyzer: opencv, or insightface:FOLDER.")
    clip_vision: str = Field(description="CLIP's vision tower: a transformers folder or a hub id.")
    clip_vision_name: str | None = Field(None, description="Its name in the checkpoint; None: as given.")
    image_size: int = Field(1024, ge=8, description="Pixels of a side.")
    min_face: float | None = Field(None, ge=0, description="Pixels of the face's shorter side; None: as `prepare`.")
    min_sharpness: float | None = Field(None, ge=0, description="As `prepare`'s --min-sharpness.")


class TrainingConfig(_Part):
    """A run of one stage. Paths are read from where the program runs."""

    stage: Stage
    base_model: str = Field(description="SDXL: a diffusers folder, a .safetensors file or a hub id.")
    dataset: Path = Field(description="A folder that `portraits dataset prepare` made.")
    live: Live | None = Field(None, description="Train on photos that are not prepared; slower.")
    out: Path = Field(description="The run's folder: network/, checkpoints/, logs/, samples/.")
    init: str | None = Field(None, description="Checkpoint to begin with: a run's folder, a network's, or a hub id.")
    network: NetworkSizes = Field(NetworkSizes(), description="Sizes where `init` is not given.")

    steps: int = Field(20_000, ge=1, description="Optimizer steps of the whole stage.")
    batch_size: int = Field(4, ge=1, description="Samples in a pass, for each process.")
    accumulation: int = Field(1, ge=1, description="Passes in an optimizer step.")
    seed: int = Field(0, ge=0, description="Decides order, noise, timesteps, settings and the first weights.")

    optimizer: Literal["adamw", "adamw8bit"] = Field("adamw", description="adamw8bit needs bitsandbytes and CUDA.")
    learning_rate: float = Field(1e-4, gt=0, lt=1)
    warm_up: int = Field(500, ge=0, description="Steps in which the rate rises from zero.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="What the rate does after the warm-up.")
    weight_decay: float = Field(0.01, ge=0)
    beta_1: float = Field(0.9, ge=0, lt=1)
    beta_2: float = Field(0.999, ge=0, lt=1)
    gradient_limit: float = Field(1.0, gt=0, description="Norm at which gradients are clipped.")
    ema_decay: float | None = Field(
        0.9999, gt=0, lt=1, description="None: the trained weights are written as they are."
    )

    shares: PerSetting = Field(
        PerSetting(reconstruct=0.90, foundation=0.05, base=0.05),
        description="How often a sample is in each setting; only the proportion counts. Not for stage base.",
    )
    weights: PerSetting = Field(
        PerSetting(reconstruct=1.0, foundation=1.0, base=1.0), description="What each setting's loss is multiplied by."
    )
    base_share: float = Field(0.25, ge=0, description="Distillation: the weight of Base-LoRA that goes into ID-LoRA.")
    caption_dropout: float = Field(0.1, ge=0, le=1, description="Share of captions left out; trigger words stay.")
    reference: Literal["same", "other"] = Field(
        "same", description="Which photo the face conditions come from: the picture itself, or another of the person."
    )
    min_snr_gamma: float | None = Field(None, gt=0, description="Min-SNR weighting of the timesteps; None: none.")
    timesteps: tuple[int, int] | None = Field(
        None, description="The noise levels that are trained, from (included) to (excluded); None: all of the model's."
    )

    precision: Literal["no", "fp16", "bf16"] = "no"
    device: Literal["auto", "cpu"] = Field("auto", description="auto: what accelerate finds.")
    gradient_checkpointing: bool = False
    in_memory: bool = Field(False, description="Read the dataset's tensors once instead of from the disk.")
    text_cache: int = Field(
        0, ge=0, description="Captions whose embeddings are remembered. 0 makes a resumed run equal to the last bit."
    )

    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="Latest checkpoints that are kept.")
    log_every: int = Field(10, ge=1, description="Steps between entries of the log.")
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    grids: Grids = Grids()
    export_dtype: Literal["float16", "bfloat16", "float32"] = Field("float16", description="Of the network's files.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.stage == "base" and self.network.base_rank is None and self.init is None:
            raise ValueError("stage base trains the Base branch: network.base_rank must be a number")
        if self.timesteps is not None and not 0 <= self.timesteps[0] < self.timesteps[1]:
            raise ValueError(f"timesteps go from a smaller to a larger number, found {list(self.timesteps)}")
        if self.warm_up >= self.steps and self.schedule == "cosine":
            raise ValueError(f"a cosine of {self.steps} steps needs a shorter warm_up, found {self.warm_up}")
        return self

    @classmethod
    def from_file(cls, path: str | Path, *, changes: Sequence[str] = (), **fields: Any) -> TrainingConfig:
        """Read YAML; `fields` and then `changes` (`key=value`, dots for parts: `grids.every=500`) replace what it says.

        One file may serve all stages: keys under `stages`, `base` for example, count for that stage alone.

        Raises `TrainingConfigInvalid` naming the key, with what was wanted.
        """
        path = Path(path)
        try:
            read = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise TrainingConfigInvalid(f"{path}: a YAML file was wanted: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise TrainingConfigInvalid(f"{path}: no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(read, dict):
            raise TrainingConfigInvalid(f"{path}: keys and values were wanted, found {type(read).__name__}")
        content = _of_stage({**read, **fields}, str(path))
        for change in changes:
            _set(content, change)
        return cls.checked(content, str(path))

    @classmethod
    def checked(cls, content: Mapping[str, Any], source: str = "training config") -> TrainingConfig:
        """Make it from keys and values; `TrainingConfigInvalid` with every fault where they cannot be used."""
        try:
            return cls.model_validate(dict(content))
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, detail['loc'])) or 'the whole'}: {detail['msg']}"
                for detail in error.errors(include_url=False)
            ]
            raise TrainingConfigInvalid(f"{source}: {'; '.join(faults)}") from None

    def as_data(self) -> dict[str, Any]:
        """Keys and values as JSON knows them."""
        return self.model_dump(mode="json")


def _of_stage(content: dict[str, Any], source: str) -> dict[str, Any]:
    """The content with what stands under `stages` for its own stage laid over it."""
    stages = content.pop("stages", {})
    known = get_args(Stage)
    if not isinstance(stages, dict) or not all(isinstance(each, dict) for each in stages.values()):
        raise TrainingConfigInvalid(f"{source}: stages: keys and values of each stage were wanted")
    unknown = sorted(map(str, stages.keys() - set(known)))
    if unknown:
        raise TrainingConfigInvalid(f"{source}: stages: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    return {**content, **stages.get(content.get("stage"), {})}


def _set(content: dict[str, Any], change: str) -> None:
    """Put one `key=value` into the content; the value is read as YAML."""
    name, separator, value = change.partition("=")
    *parents, last = name.strip().split(".")
    if not separator or not last:
        raise TrainingConfigInvalid(f"a change is written key=value, as in steps=100, found {change!r}")
    place = content
    for parent in parents:
        inner = place.get(parent) or {}
        if not isinstance(inner, dict):
            raise TrainingConfigInvalid(f"{change!r}: {parent} holds no keys of its own")
        place[parent] = dict(inner)
        place = place[parent]
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise TrainingConfigInvalid(f"{change!r}: the value is no YAML") from error
