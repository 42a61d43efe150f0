"""ONNX files written node by node, for the few operations that the face pack needs.

InsightFace looks at the names of a file's first nodes to guess how its input is scaled ("Sub", "Mul"); names written
here are in lower case, so the input is scaled by InsightFace itself, as for PyTorch's models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

OPSET, IR_VERSION = 17, 9


class GraphWriter:
    """A graph in the making; every method adds nodes and answers with the name of what they compute."""

    def __init__(self, name: str, side: int | None) -> None:
        """A graph of one input, `data`: (1 or any, 3, side, side) float32, or any height and width for None."""
        self._name, self._side = name, side
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._modules: dict[int, int] = {}

    @property
    def source(self) -> str:
        """The input's name."""
        return "data"

    def node(self, kind: str, *sources: str, **attributes: Any) -> str:
        """One node of an ONNX operator with one output."""
        from onnx import helper

        name = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(sources), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """A constant; one that is there under this name already is used again."""
        from onnx import numpy_helper

        self._constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def conv(self, source: str, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> str:
        """A convolution with the batch norm behind it folded in. A module that is written twice is stored once."""
        weight, bias = folded(conv, norm)
        name = f"conv{self._number(conv)}"
        constants = (self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias))
        (pad_y, pad_x) = (int(value) for value in conv.padding)
        return self.node(
            "Conv",
            source,
            *constants,
            strides=list(conv.stride),
            dilations=list(conv.dilation),
            pads=[pad_y, pad_x, pad_y, pad_x],
        )

    def pooled(self, source: str, factor: int) -> str:
        """The mean of every factor x factor pixels."""
        return self.node("AveragePool", source, kernel_shape=[factor] * 2, strides=[factor] * 2)

    def dense(self, source: str, linear: nn.Linear) -> str:
        """A linear layer on (B, C)."""
        name = f"dense{self._number(linear)}"
        weight = self.constant(f"{name}.weight", linear.weight.detach().float().cpu().numpy())
        bias = self.constant(f"{name}.bias", linear.bias.detach().float().cpu().numpy())
        return self.node("Gemm", source, weight, bias, transB=1)

    def save(self, path: Path, outputs: Mapping[str, tuple[str | int, ...]]) -> None:
        """Check the graph and write it in one step; `outputs` are values of the graph and their shapes, in order.

        Raises
        ------
        onnx.checker.ValidationError
            The nodes do not make a graph.
        """
        import onnx
        from onnx import TensorProto, helper

        side = ("height", "width") if self._side is None else (self._side, self._side)
        source = helper.make_tensor_value_info(self.source, TensorProto.FLOAT, ["batch", 3, *side])
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
        graph = helper.make_graph(self._nodes, self._name, [source], results, list(self._constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        beside = path.with_name(f".{path.name}-{os.getpid()}")
        onnx.save(model, beside)
        beside.replace(path)

    def named(self, name: str, source: str) -> str:
        """The value under a name of one's own, as an output needs it."""
        from onnx import helper

        self._nodes.append(helper.make_node("Identity", [source], [name], name=f"out_{name}"))
        return name

    def _number(self, module: nn.Module) -> int:
        return self._modules.setdefault(id(module), len(self._modules))


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weight and bias of the one convolution that equals a convolution and a batch norm in evaluation."""
    with torch.no_grad():
        weight = conv.weight.double()
        bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device) if conv.bias is None else conv.bias
        bias = bias.double()
        if norm is not None:
            assert norm.running_mean is not None and norm.running_var is not None
            gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            weight = weight * gain[:, None, None, None]
            bias = norm.bias.double() + (bias - norm.running_mean.double()) * gain
        return weight.float().cpu().numpy(), bias.float().cpu().numpy()
