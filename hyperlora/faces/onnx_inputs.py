"""Drop from an ONNX file the graph inputs that nobody feeds.

Exporters of old listed every weight as a graph input too, and quantisers left such entries behind for weights that
are gone. ONNX allows it; OpenCV 5 takes each for an input that the caller must set and refuses to run the network.
Only the list of inputs has to change, so a walk over the protobuf records is enough, and the `onnx` package (used by
the tests to check this file) is no dependency of the product.

Field numbers are those of onnx.proto: ModelProto.graph = 7; GraphProto.node = 1, .initializer = 5, .input = 11;
NodeProto.input = 1; TensorProto.name = 8; ValueInfoProto.name = 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from hyperlora.errors import WeightsMissing

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_NODE_INPUT, _TENSOR_NAME, _VALUE_NAME = 1, 8, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def without_unfed_inputs(model: bytes) -> bytes:
    """The same ONNX model, its graph's inputs cut down to those that a node reads and no initialiser fills.

    Raises
    ------
    WeightsMissing
        The bytes are no ONNX model (torn download, another file).
    """
    out = bytearray()
    graphs = 0
    for number, record, body in _records(memoryview(model)):
        if number == _MODEL_GRAPH:
            graphs += 1
            graph = _graph_without_unfed_inputs(body)
            out += bytes([_MODEL_GRAPH << 3 | _BYTES]) + _varint(len(graph)) + graph
        else:
            out += record
    if graphs != 1:
        raise WeightsMissing(f"an ONNX file must hold one graph, found {graphs}; fetch or install the file again")
    return bytes(out)


def _graph_without_unfed_inputs(graph: memoryview) -> bytes:
    filled: set[bytes] = set()
    read: set[bytes] = set()
    for number, _, body in _records(graph):
        if number == _GRAPH_INITIALIZER:
            filled.update(_strings(body, _TENSOR_NAME))
        elif number == _GRAPH_NODE:
            read.update(_strings(body, _NODE_INPUT))
    out = bytearray()
    for number, record, body in _records(graph):
        if number == _GRAPH_INPUT and not set(_strings(body, _VALUE_NAME)) & (read - filled):
            continue
        out += record
    return bytes(out)


def _strings(message: memoryview, wanted: int) -> Iterator[bytes]:
    return (bytes(body) for number, _, body in _records(message) if number == wanted)


def _records(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """(field number, whole record, payload) of every record of a protobuf message."""
    at = 0
    while at < len(message):
        key, payload = _read_varint(message, at)
        kind = key & 7
        if kind == _BYTES:
            length, payload = _read_varint(message, payload)
            end = payload + length
        elif kind == _VARINT:
            _, end = _read_varint(message, payload)
        elif kind in (_FIXED32, _FIXED64):
            end = payload + (4 if kind == _FIXED32 else 8)
        else:
            raise WeightsMissing(f"not an ONNX file: record kind {kind} at byte {at}; fetch or install it again")
        if end > len(message):
            raise WeightsMissing("the ONNX file ends in the middle of a record; fetch or install it again")
        yield key >> 3, message[at:end], message[payload:end]
        at = end


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise WeightsMissing("the ONNX file ends in the middle of a number; fetch or install it again")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
