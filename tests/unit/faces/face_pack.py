"""A tiny InsightFace pack whose every answer can be worked out by hand.

- det.onnx fires where the picture is pure red: the average of R - G - B over a 32 px cell of the detector's square
  (in the units of its input, (value - 127.5) / 128) is above 0.5. Box and points lie at fixed offsets from the cell's
  upper left corner. Strides 8 and 16 never fire.
- landmarks.onnx answers LANDMARKS whatever it sees, in the -1 to 1 of its 192 px square.
- recogniser.onnx averages its 112 px square over 4 x 4 fields and mixes the 48 numbers by MIX.

Graphs take one picture, or as many as are given (`batch`). A detector may answer for a batch in rows that keep its
pictures apart (`flat`), in an axis of its own (`axis`), or in rows that go through all pictures cell by cell
(`woven`), as exports of old do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 24
# Left, top, right, bottom: distances from the firing cell's corner in pixels of the detector's square.
REACH = np.array([48, 64, 80, 96], dtype=np.float32)
# Offsets of the five points from that corner, in pixels of the square: a face about as tall as REACH.
POINTS = np.array([[-10, -8], [34, -8], [12, 14], [-6, 40], [30, 40]], dtype=np.float32)
LANDMARKS = np.random.default_rng(3).uniform(-0.6, 0.6, (106, 2)).astype(np.float32)
MIX = np.random.default_rng(4).normal(size=(48, WIDTH)).astype(np.float32)
SCORE_GAIN = 0.5


def build_pack(folder: Path, *, batch: int | str = 1, rows: str = "flat") -> Path:
    """Write the three ONNX files into a new folder."""
    folder.mkdir(parents=True)
    models = {"det": _detector(batch, rows), "landmarks": _landmarks(batch), "recogniser": _recogniser(batch)}
    for name, model in models.items():
        onnx.checker.check_model(model)
        onnx.save(model, folder / f"{name}.onnx")
    return folder


def _constant(name: str, value: npt.NDArray[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


def _model(nodes: list[onnx.NodeProto], name: str, size: tuple[object, object], outputs: list[onnx.ValueInfoProto],
           constants: list[onnx.TensorProto], batch: int | str) -> onnx.ModelProto:  # fmt: skip
    source = helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, *size])
    graph = helper.make_graph(nodes, name, [source], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _detector(batch: int | str, rows: str) -> onnx.ModelProto:
    order = [2, 3, 0, 1] if rows == "woven" else [0, 2, 3, 1]
    column = [0, -1, 1] if rows == "axis" else [-1, 1]
    nodes: list[onnx.NodeProto] = []
    constants = [
        # (R - G - B) of the normalised input; plain red gives about 0.996 * 3.
        _constant("redness", np.array([1, -1, -1], dtype=np.float32).reshape(1, 3, 1, 1)),
        _constant("zero", np.array(0, dtype=np.float32)),
        _constant("one", np.array(1, dtype=np.float32)),
        _constant("column", np.array(column, dtype=np.int64)),
    ]
    scores, boxes, points = [], [], []
    for stride in (8, 16, 32):
        gain = SCORE_GAIN if stride == 32 else 0.0
        constants += [
            _constant(f"gain_{stride}", np.array(gain, dtype=np.float32)),
            _constant(f"reach_{stride}", (REACH / stride).reshape(1, 4)),
            _constant(f"points_{stride}", (POINTS / stride).reshape(1, 10)),
        ]
        nodes += [
            helper.make_node(
                "AveragePool", ["data"], [f"cells_{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            helper.make_node("Conv", [f"cells_{stride}", "redness"], [f"red_{stride}"]),
            helper.make_node("Mul", [f"red_{stride}", f"gain_{stride}"], [f"gained_{stride}"]),
            helper.make_node("Clip", [f"gained_{stride}", "zero", "one"], [f"clipped_{stride}"]),
            # Two anchors a cell, cell by cell.
            helper.make_node("Concat", [f"clipped_{stride}"] * 2, [f"anchors_{stride}"], axis=1),
            helper.make_node("Transpose", [f"anchors_{stride}"], [f"last_{stride}"], perm=order),
            helper.make_node("Reshape", [f"last_{stride}", "column"], [f"score_{stride}"]),
            helper.make_node("Mul", [f"score_{stride}", "zero"], [f"nothing_{stride}"]),
            helper.make_node("Add", [f"nothing_{stride}", f"reach_{stride}"], [f"box_{stride}"]),
            helper.make_node("Add", [f"nothing_{stride}", f"points_{stride}"], [f"kps_{stride}"]),
        ]
        for kind, width, where in (("score", 1, scores), ("box", 4, boxes), ("kps", 10, points)):
            shape = [batch, f"n{stride}", width] if rows == "axis" else [f"n{stride}", width]
            where.append(helper.make_tensor_value_info(f"{kind}_{stride}", TensorProto.FLOAT, shape))
    return _model(nodes, "det", ("height", "width"), [*scores, *boxes, *points], constants, batch)


def _landmarks(batch: int | str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "none"], ["nothing"]),
        helper.make_node("Add", ["nothing", "points"], ["fc1"]),
    ]
    constants = [
        _constant("none", np.zeros((3, 212), dtype=np.float32)),
        _constant("points", LANDMARKS.reshape(1, 212)),
    ]
    output = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [batch, 212])
    return _model(nodes, "landmarks", (192, 192), [output], constants, batch)


def _recogniser(batch: int | str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("AveragePool", ["data"], ["fields"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["fields"], ["flat"]),
        helper.make_node("MatMul", ["flat", "mix"], ["embedding"]),
    ]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, WIDTH])
    return _model(nodes, "recogniser", (112, 112), [output], [_constant("mix", MIX)], batch)
