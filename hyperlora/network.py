"""The hypernetwork: a person's conditions in, a LoRA out, in one forward pass.

Shapes: N photos of one person, E face embedding, T CLIP tokens of width C, Q tokens, K bases.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from hyperlora.basis import BasisBank
from hyperlora.checkpoint import (
    BASE_RESAMPLER,
    BASES,
    CONFIG_JSON,
    MODULES_JSON,
    PROJECTOR,
    RESAMPLER,
    CheckpointFiles,
    config_json,
    modules_json,
)
from hyperlora.checkpoint_shapes import Shapes
from hyperlora.coefficients import normalise
from hyperlora.config import Branch, HyperLoRAConfig
from hyperlora.errors import CheckpointMismatch, FaceEncoderMismatch, InvalidRequest
from hyperlora.host_memory import present
from hyperlora.hub import resolve
from hyperlora.lora import LoRA
from hyperlora.one_at_a_time import LOADING
from hyperlora.resampler import Resampler
from hyperlora.tensorfile import tensor_bytes

MOST_PHOTOS = 32
"""Photos of several people in one pass of the resampler."""


class IdProjector(nn.Sequential):
    """Linear(E -> tokens x width), cut into tokens, LayerNorm: a face embedding becomes ID tokens."""

    def __init__(self, config: HyperLoRAConfig) -> None:
        super().__init__(
            nn.Linear(config.face_width, config.id_tokens * config.id_token_width),
            nn.Unflatten(-1, (config.id_tokens, config.id_token_width)),
            nn.LayerNorm(config.id_token_width),
        )


class HyperLoRA(nn.Module):
    """Resampler, bases and projector of one checkpoint, for one person at a time at inference.

    `raw_coefficients` is per photo, as training needs it; only `coefficients` averages, and only over the photos of
    one person.
    """

    def __init__(self, config: HyperLoRAConfig) -> None:
        super().__init__()
        self.config = config
        self.most_photos = MOST_PHOTOS
        widths = {"face": config.id_token_width, "clip": config.clip_width}
        x_width, *y_width = [widths[stream] for stream in config.streams]
        self.resampler = Resampler(config, x_width, y_width[0] if y_width else None)
        self.id_projector = IdProjector(config) if "face" in config.streams else None
        self.id_bases = BasisBank(config, "id")
        has_base = config.base_rank is not None
        self.base_resampler = Resampler(config, config.clip_width, None) if has_base else None
        self.base_bases = BasisBank(config, "base") if has_base else None
        self._fingerprint: tuple[tuple[tuple[int, int], ...], str] | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> HyperLoRA:
        """Load a checkpoint of the released layout from a folder, or from the hub (`owner/name[/folder]`).

        Raises `WeightsMissing` for what is not there and `CheckpointMismatch` naming a tensor that is missing,
        superfluous or misshapen, with what was found and what was expected.
        """
        files = CheckpointFiles(resolve(folder_or_hub_id, revision))
        with LOADING, torch.device("meta"):
            network = cls(files.config())
        files.check(network.released_shapes())
        network = network.to(dtype).to_empty(device=device).requires_grad_(False).eval()
        for file in files.files:
            places = dict(network.released_tensors(file))
            for name, tensor in files.tensors(file):
                places[name].copy_(tensor)
        return network

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the checkpoint in the released layout, with `hyperlora_config.json`, in the dtype it has."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # A file of an earlier checkpoint in the same folder would be read as part of this one.
        for file in (PROJECTOR, BASE_RESAMPLER):
            (folder / file).unlink(missing_ok=True)
        for file in self.released_files():
            tensors = {name: tensor.contiguous() for name, tensor in self.released_tensors(file)}
            save_file(tensors, folder / file, metadata={"format": "pt"})
        for file, content in ((MODULES_JSON, modules_json(self.config)), (CONFIG_JSON, config_json(self.config))):
            (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def raw_coefficients(
        self,
        face_embeddings_NE: torch.Tensor | None,
        clip_tokens_NTC: torch.Tensor | None,
        branch: Branch = "id",
    ) -> torch.Tensor:
        """One row of resampler output per photo, (N, Q, K), neither averaged nor normalised; differentiable.

        An absent stream (None) of a two-stream network is left out, as in training.
        """
        self.config.rank_of(branch)
        with ExitStack() as visits:
            for part in self.resamplers:
                visits.enter_context(present(part))
            return self._read(face_embeddings_NE, clip_tokens_NTC, branch)

    @property
    def banks(self) -> tuple[BasisBank, ...]:
        """The bases of every branch."""
        return tuple(bank for bank in (self.id_bases, self.base_bases) if bank is not None)

    @property
    def resamplers(self) -> tuple[nn.Module, ...]:
        """What reads conditions: everything but the bases."""
        parts = (self.resampler, self.id_projector, self.base_resampler)
        return tuple(part for part in parts if part is not None)

    def _read(
        self, face_embeddings_NE: torch.Tensor | None, clip_tokens_NTC: torch.Tensor | None, branch: Branch
    ) -> torch.Tensor:
        weight = self.resampler.proj_out.weight
        clip_NTC = None if clip_tokens_NTC is None else clip_tokens_NTC.to(weight)
        if branch == "base":
            assert self.base_resampler is not None
            out: torch.Tensor = self.base_resampler(clip_NTC)
            return out
        streams: list[torch.Tensor | None] = []
        for stream in self.config.streams:
            if stream == "clip":
                streams.append(clip_NTC)
            else:
                assert self.id_projector is not None
                face_NE = face_embeddings_NE
                streams.append(None if face_NE is None else self.id_projector(face_NE.to(weight)))
        out = self.resampler(*streams)
        return out

    @torch.no_grad()
    def coefficients(
        self,
        face_embeddings: torch.Tensor | None,
        clip_tokens: torch.Tensor | None,
        branch: Branch = "id",
    ) -> torch.Tensor:
        """Read N photos of ONE person; returns unit coefficient vectors, (1, Q, K), float32.

        Face embeddings are (N, E), CLIP tokens (N, T, C). The mean over photos is taken before the normalisation. A
        condition that the checkpoint has no stream for is not read.

        Raises `InvalidRequest` for a missing condition or unequal N, `FaceEncoderMismatch` for embeddings of another
        length, `CheckpointMismatch` for a branch that the checkpoint lacks.
        """
        self._check_conditions(face_embeddings, clip_tokens, branch)
        raw_NQK = self.raw_coefficients(face_embeddings, clip_tokens, branch)
        return normalise(raw_NQK.float().mean(dim=0, keepdim=True))

    @torch.no_grad()
    def coefficients_many(
        self, people: Sequence[tuple[torch.Tensor | None, torch.Tensor | None]], branch: Branch = "id"
    ) -> torch.Tensor:
        """Read the photos of several people, of each as many as there are; returns (B, Q, K), float32.

        Each person is given as to `coefficients`, which this raises like. Photos of all go through the resampler
        together, `most_photos` at a time; only one person's are averaged, so a row is that of `coefficients` but for
        rounding.
        """
        if not people:
            raise InvalidRequest("coefficients of at least one person were wanted, found nobody")
        for face_embeddings, clip_tokens in people:
            self._check_conditions(face_embeddings, clip_tokens, branch)
        reads = self.config.streams if branch == "id" else ("clip",)
        faces = [row_E for each, _ in people if each is not None for row_E in each] if "face" in reads else []
        clips = [row_TC for _, each in people if each is not None for row_TC in each] if "clip" in reads else []
        raw = []
        for begin in range(0, max(len(faces), len(clips)), self.most_photos):
            some = slice(begin, begin + self.most_photos)
            raw.append(self.raw_coefficients(self._stacked(faces[some]), self._stacked(clips[some]), branch).float())
        read = [face if "face" in reads else clip for face, clip in people]
        counts = [len(each) for each in read if each is not None]
        own = torch.cat(raw).tensor_split(tuple(accumulate(counts))[:-1])
        return normalise(torch.stack([rows_NQK.mean(dim=0) for rows_NQK in own]))

    def _stacked(self, rows: Sequence[torch.Tensor]) -> torch.Tensor | None:
        return torch.stack(list(rows)).to(self.resampler.latents.device) if rows else None

    @torch.no_grad()
    def lora(self, coefficients: torch.Tensor, branch: Branch = "id") -> LoRA:
        """Mix the bases by one person's coefficients, (1, Q, K) or (Q, K); the LoRA has the network's dtype.

        Raises `InvalidRequest` for another shape and `CheckpointMismatch` for a branch that the checkpoint lacks.
        """
        self.config.rank_of(branch)
        expected = (self.config.tokens, self.config.bases)
        found = tuple(coefficients.shape[1:] if coefficients.ndim == 3 else coefficients.shape)
        if found != expected or (coefficients.ndim == 3 and coefficients.shape[0] != 1):
            raise InvalidRequest(
                f"coefficients of one person are (1, {expected[0]}, {expected[1]}), found {tuple(coefficients.shape)}"
            )
        bank = self.id_bases if branch == "id" else self.base_bases
        assert bank is not None
        return LoRA(bank.mix(coefficients.reshape(expected)), self._provenance(branch))

    @torch.no_grad()
    def loras(self, coefficients: torch.Tensor, branch: Branch = "id") -> list[LoRA]:
        """Mix the bases by several people's coefficients, (B, Q, K), reading them once; raises what `lora` raises.

        Each LoRA is that of `lora`, but for the rounding of a larger product.
        """
        self.config.rank_of(branch)
        expected = (self.config.tokens, self.config.bases)
        if coefficients.ndim != 3 or tuple(coefficients.shape[1:]) != expected:
            raise InvalidRequest(
                f"coefficients of several people are (B, {expected[0]}, {expected[1]}), found "
                f"{tuple(coefficients.shape)}"
            )
        bank = self.id_bases if branch == "id" else self.base_bases
        assert bank is not None
        provenance = self._provenance(branch)
        return [LoRA(layers, provenance) for layers in bank.mix_many(coefficients)]

    def generate(
        self,
        face_embeddings: torch.Tensor | None,
        clip_tokens: torch.Tensor | None,
        branch: Branch = "id",
    ) -> LoRA:
        """The LoRA of ONE person from N photos; raises what `coefficients` and `lora` raise."""
        return self.lora(self.coefficients(face_embeddings, clip_tokens, branch), branch)

    def require_face_encoder(self, name: str, width: int) -> None:
        """Raise `FaceEncoderMismatch` unless embeddings come from the encoder that the checkpoint was trained with."""
        if "face" in self.config.streams and (name, width) != (self.config.face_encoder, self.config.face_width):
            raise FaceEncoderMismatch(
                f"this checkpoint reads embeddings of {self.config.face_encoder!r} ({self.config.face_width} numbers), "
                f"found {name!r} ({width} numbers); configure that face encoder or choose another checkpoint"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over config and tensors, 64 hex digits.

        Values are hashed as float32 under their released names, so a checkpoint keeps its fingerprint through saving
        and loading, and through a change of dtype that loses nothing.
        """
        state = self._state()
        if self._fingerprint is None or self._fingerprint[0] != state:
            self._fingerprint = (state, self._hash())
        return self._fingerprint[1]

    def _state(self) -> tuple[tuple[int, int], ...]:
        """Where every parameter lies and how often it was written to: another parameter, or a change in place, shows.

        A plain walk: `parameters()` costs twice as much, and every mixing asks.
        """
        state: list[tuple[int, int]] = []
        left: list[nn.Module] = [self]
        while left:
            module = left.pop()
            left += [child for child in module._modules.values() if child is not None]
            state += [(each.data_ptr(), each._version) for each in module._parameters.values() if each is not None]
        return tuple(state)

    def released_files(self) -> tuple[str, ...]:
        """The tensor files that this checkpoint consists of."""
        parts = {PROJECTOR: self.id_projector, BASE_RESAMPLER: self.base_resampler}
        return (BASES, RESAMPLER, *(file for file, part in parts.items() if part is not None))

    def released_tensors(self, file: str) -> Iterator[tuple[str, torch.Tensor]]:
        """A file's tensors under their released names, sharing memory with the parameters."""
        if file == BASES:
            for bank in (self.id_bases, self.base_bases):
                if bank is None:
                    continue
                for projection, down_KIR, up_KRO in bank.views():
                    yield f"{projection.key}.{bank.branch}_down_basis", down_KIR
                    yield f"{projection.key}.{bank.branch}_up_basis", up_KRO
            return
        part = {RESAMPLER: self.resampler, PROJECTOR: self.id_projector, BASE_RESAMPLER: self.base_resampler}[file]
        assert part is not None
        for name, parameter in part.named_parameters():
            yield name, parameter.detach()

    def released_shapes(self) -> dict[str, Shapes]:
        """File -> tensor -> shape."""
        return {
            file: {name: tuple(tensor.shape) for name, tensor in self.released_tensors(file)}
            for file in self.released_files()
        }

    def _check_conditions(self, face_NE: torch.Tensor | None, clip_NTC: torch.Tensor | None, branch: Branch) -> None:
        self.config.rank_of(branch)
        streams = self.config.streams if branch == "id" else ("clip",)
        counts = set()
        if "face" in streams:
            if face_NE is None or face_NE.ndim != 2 or not len(face_NE):
                width = self.config.face_width
                raise InvalidRequest(f"face embeddings (N, {width}) were wanted, found {_shape(face_NE)}")
            if face_NE.shape[1] != self.config.face_width:
                raise FaceEncoderMismatch(
                    f"this checkpoint reads embeddings of {self.config.face_encoder!r}, {self.config.face_width} "
                    f"numbers, found {face_NE.shape[1]} numbers; another face encoder made them"
                )
            counts.add(len(face_NE))
        if "clip" in streams:
            width = self.config.clip_width
            if clip_NTC is None or clip_NTC.ndim != 3 or not len(clip_NTC):
                raise InvalidRequest(f"CLIP tokens (N, T, {width}) were wanted, found {_shape(clip_NTC)}")
            if clip_NTC.shape[2] != width:
                raise CheckpointMismatch(
                    f"this checkpoint reads CLIP tokens of {self.config.clip_vision!r}, width {width}, "
                    f"found width {clip_NTC.shape[2]}"
                )
            counts.add(len(clip_NTC))
        if len(counts) > 1:
            raise InvalidRequest(f"both streams need one row per photo, found {sorted(counts)} photos")

    def _provenance(self, branch: Branch) -> dict[str, str]:
        return {
            "hyperlora_fingerprint": self.fingerprint,
            "hyperlora_branch": branch,
            "hyperlora_alpha_over_rank": repr(self.config.alpha_over_rank),
            "hyperlora_trigger_words": self.config.trigger_words,
            "software": "hyperlora-portraits",
        }

    def _hash(self) -> str:
        def line(entry: tuple[str, str, torch.Tensor]) -> str:
            file, name, tensor = entry
            digest = hashlib.sha256(tensor_bytes(tensor.float())).hexdigest()
            return f"{file} {name} {tuple(tensor.shape)} {digest}\n"

        entries = [
            (file, name, tensor) for file in self.released_files() for name, tensor in self.released_tensors(file)
        ]
        with ThreadPoolExecutor(4) as threads:
            lines = sorted(threads.map(line, entries))
        head = json.dumps([modules_json(self.config), config_json(self.config)])
        return hashlib.sha256("".join([head, "\n", *lines]).encode()).hexdigest()


def _shape(tensor: torch.Tensor | None) -> str:
    return "none" if tensor is None else f"shape {tuple(tensor.shape)}"
