"""safetensors files: written with the same bytes for the same content, read with their metadata.

The usual writer keeps metadata in a hash map, so that two saves of one LoRA may differ; a stored file is named by its
hash here, so the header is written in sorted order. The layout is the public one: eight bytes with the header's length
(little endian), the header as JSON, the tensors' bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}


class BrokenTensorFile(Exception):
    """The bytes are not a safetensors file."""


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The raw little-endian bytes of a tensor, row by row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def dump(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Write tensors and metadata as the bytes of a safetensors file; equal content gives equal bytes."""
    # Widest type first, so that every tensor starts at a multiple of its own width.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    parts: list[bytes] = []
    offset = 0
    for name in names:
        data = tensor_bytes(tensors[name])
        header[name] = {
            "dtype": _DTYPE_NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(data)],
        }
        parts.append(data)
        offset += len(data)
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def parse(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the bytes of a safetensors file; returns tensors and metadata, or raises `BrokenTensorFile`."""
    try:
        tensors = load_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise BrokenTensorFile(f"not a safetensors file: {error}") from error
    metadata: dict[str, str] = header.get("__metadata__", {})
    return tensors, metadata
