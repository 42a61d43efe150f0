"""The one building block of the small face networks, and how its parts become ONNX nodes.

Shapes: B samples, C channels, H x W pixels.

Every network of the face pack is a stack of 3 x 3 convolutions with batch norms. In an ONNX file the norms are folded
into the convolutions, so that nothing but convolutions, sums and ReLUs remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hyperlora.mini.learn.onnx_files import GraphWriter


@dataclass(frozen=True)
class Size:
    """One layer: channels out, stride, dilation."""

    width: int
    stride: int = 1
    dilation: int = 1


class Layer(nn.Module):
    """3 x 3 convolution, batch norm and ReLU; what keeps its shape adds to its input."""

    def __init__(self, width_in: int, size: Size) -> None:
        super().__init__()
        self.adds = width_in == size.width and size.stride == 1
        self.conv = nn.Conv2d(width_in, size.width, 3, size.stride, size.dilation, size.dilation, bias=False)
        self.norm = nn.BatchNorm2d(size.width)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        made_BCHW = self.norm(self.conv(x_BCHW))
        return nn.functional.relu(made_BCHW + x_BCHW if self.adds else made_BCHW)

    def write(self, graph: GraphWriter, source: str) -> str:
        """The same as ONNX nodes; answers with the name of the result."""
        made = graph.conv(source, self.conv, self.norm)
        return graph.node("Relu", graph.node("Add", made, source) if self.adds else made)


class Stack(nn.Module):
    """Layers one after another."""

    def __init__(self, sizes: Sequence[Size], width_in: int = 3) -> None:
        super().__init__()
        widths = [width_in, *(size.width for size in sizes)]
        self.layers = nn.ModuleList(Layer(width, size) for width, size in zip(widths, sizes, strict=False))
        self.width = widths[-1]

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to the last layer's (B, C, H', W')."""
        for layer in self.layers:
            x_BCHW = layer(x_BCHW)
        return x_BCHW

    def write(self, graph: GraphWriter, source: str) -> str:
        """The same as ONNX nodes; answers with the name of the result."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            source = layer.write(graph, source)
        return source


def batch_of(pictures_BHW3: torch.Tensor, middle: float, spread: float) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32, (value - middle) / spread, its channels innermost in memory.

    Convolutions are half as fast again on a CPU with the channels innermost.
    """
    return ((pictures_BHW3.float() - middle) / spread).permute(0, 3, 1, 2)
