"""The shapes in a checkpoint's files: read without their numbers, asked for sizes, compared with what was expected."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hyperlora.errors import CheckpointMismatch, WeightsMissing

Shapes = dict[str, tuple[int, ...]]
"""Tensor name -> shape."""

Witness = tuple[str, int, int]
"""A pattern of tensor names, the dimensions that they need, and the axis that tells the size."""

_NUMBERS = frozenset({"F16", "BF16", "F32", "F64"})


class FileShapes:
    """The shapes of one safetensors file."""

    def __init__(self, path: Path, shapes: Shapes) -> None:
        self.path, self.shapes = path, shapes

    @classmethod
    def read(cls, path: Path) -> FileShapes:
        """Read a file's header; `WeightsMissing` without the file, `CheckpointMismatch` where it is no weights file."""
        if not path.is_file():
            raise WeightsMissing(f"the checkpoint folder {path.parent} has no {path.name}")
        shapes: Shapes = {}
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    entry = opened.get_slice(name)
                    if entry.get_dtype() not in _NUMBERS:
                        raise CheckpointMismatch(
                            f"{path}: tensor {name!r} holds {entry.get_dtype()}, wanted floating-point numbers "
                            f"({', '.join(sorted(_NUMBERS))})"
                        )
                    shapes[name] = tuple(entry.get_shape())
        except SafetensorError as error:
            raise CheckpointMismatch(f"{path}: not a safetensors file: {error}") from error
        return cls(path, shapes)

    def get(self, name: str, dims: int) -> tuple[int, ...]:
        """The shape of a tensor that must exist with that many dimensions."""
        if name not in self.shapes:
            raise CheckpointMismatch(f"{self.path}: tensor {name!r} is missing, wanted one of {dims} dimensions")
        shape = self.shapes[name]
        if len(shape) != dims:
            raise CheckpointMismatch(f"{self.path}: tensor {name!r} needs {dims} dimensions, found shape {shape}")
        return shape

    def size(self, example: str, *witnesses: Witness) -> int:
        """The size that most tensors agree on, so that a single misshapen one is blamed and not its neighbours.

        The first witness's tensors win a tie. `CheckpointMismatch` naming the tensor `example` where none tells.
        """
        votes = Counter(
            shape[axis]
            for pattern, dims, axis in witnesses
            for name, shape in self.shapes.items()
            if len(shape) == dims and re.fullmatch(pattern, name)
        )
        if not votes:
            raise CheckpointMismatch(
                f"{self.path}: tensor {example!r} is missing, wanted one of {witnesses[0][1]} dimensions"
            )
        return votes.most_common(1)[0][0]

    def layers(self, prefix: str) -> int:
        """How many of `prefix.0`, `prefix.1`, ... there are; a stray tensor is no layer."""
        counts = Counter(name.split(".")[1] for name in self.shapes if name.startswith(f"{prefix}."))
        if not counts:
            raise CheckpointMismatch(f"{self.path}: tensor '{prefix}.0.attn1.to_q.weight' is missing")
        whole = max(counts.values())
        return sum(2 * count > whole for count in counts.values())

    def require(self, expected: Shapes) -> None:
        """Raise `CheckpointMismatch` at the first missing, superfluous or misshapen tensor."""
        missing = [name for name in expected if name not in self.shapes]
        if missing:
            raise CheckpointMismatch(
                f"{self.path}: tensor {missing[0]!r} of shape {expected[missing[0]]} is missing{_others(missing)}"
            )
        extra = [name for name in self.shapes if name not in expected]
        if extra:
            raise CheckpointMismatch(
                f"{self.path}: tensor {extra[0]!r} of shape {self.shapes[extra[0]]} has no place in this "
                f"checkpoint{_others(extra)}"
            )
        for name, shape in expected.items():
            if self.shapes[name] != shape:
                raise CheckpointMismatch(
                    f"{self.path}: tensor {name!r} has shape {self.shapes[name]}, expected {shape}"
                )


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
