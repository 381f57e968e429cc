"""all-MiniLM-L6-v2 as an ONNX graph of our own, which multiplies in 8 bits, from the weights of an installed package.

The package's own graph only stores its weights in 8 bits: it multiplies in 32, in many small steps. Here the same
weights (signed, a scale per column) go into onnxruntime's `DynamicQuantizeMatMul`, with one scale for a matrix of
activations. So the graph takes one text at a time: no padding, and a vector never depends on what else was embedded.
ADR 0073 has what that gains and costs. Field numbers are those of `onnx.proto`.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

INPUT = "input_ids"
"""(1, tokens) int64: one text."""
OUTPUT = "vector"
"""(1, 384) float32: the mean of the text's token vectors, as a unit vector."""
LAYERS = 6
HEADS = 12
_EPSILON = 1e-12
_OPSET = 17
_IR_VERSION = 8
_CONTRIB = "com.microsoft"
_FLOAT, _INT8, _INT64 = 1, 3, 7
_DTYPES: dict[int, np.dtype[Any]] = {_FLOAT: np.dtype("<f4"), _INT8: np.dtype("i1"), _INT64: np.dtype("<i8")}

Array = npt.NDArray[Any]


def graph(package: bytes) -> bytes:
    """The graph, from the package's ONNX file. Raises `ValueError` where that holds another model."""
    weights = _initializers(memoryview(package))
    matrices = sorted((name for name in weights if name.endswith("_q") and name.startswith("val_")), key=_number)
    per_layer = len(matrices) // LAYERS
    if [weights[name].shape for name in matrices[:per_layer]] != [(384, 384)] * 4 + [(384, 1536), (1536, 384)]:
        raise ValueError("the embedder's weights are not those of all-MiniLM-L6-v2 in 8 bits")
    made = _Graph()
    states = _embedded(made, weights)
    for layer in range(LAYERS):
        own = [name.removesuffix("_q") for name in matrices[layer * per_layer : (layer + 1) * per_layer]]
        states = _layer(made, weights, states, f"inner.encoder.layer.{layer}.", own)
    mean = made.node("ReduceMean", [states], axes=[1], keepdims=0)
    made.node("LpNormalization", [mean], output=OUTPUT, axis=-1, p=2)
    return made.model()


class _Graph:
    """Nodes and constants so far, as protocol buffers."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []

    def constant(self, value: Array) -> str:
        name = f"c{len(self._constants)}"
        kind = next(kind for kind, dtype in _DTYPES.items() if dtype == value.dtype)
        dims = b"".join(_number_field(1, size) for size in value.shape)
        data = np.ascontiguousarray(value).tobytes()
        self._constants.append(dims + _number_field(2, kind) + _field(8, name.encode()) + _field(9, data))
        return name

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        *,
        output: str | None = None,
        domain: str = "",
        **attributes: int | float | list[int],
    ) -> str:
        """Add a node; returns the name of its output."""
        name = output or f"n{len(self._nodes)}"
        parts = [_field(1, each.encode()) for each in inputs]
        parts += [_field(2, name.encode()), _field(4, kind.encode()), _field(7, domain.encode())]
        parts += [_field(5, _attribute(key, value)) for key, value in attributes.items()]
        self._nodes.append(b"".join(parts))
        return name

    def model(self) -> bytes:
        parts = [_field(1, node) for node in self._nodes]
        parts += [_field(2, b"minilm"), *(_field(5, constant) for constant in self._constants)]
        parts += [_field(11, _value(INPUT, _INT64, (1, "tokens"))), _field(12, _value(OUTPUT, _FLOAT, (1, 384)))]
        opsets = [_field(1, domain) + _number_field(2, version) for domain, version in _OPSETS]
        return b"".join(
            [_number_field(1, _IR_VERSION), _field(7, b"".join(parts)), *(_field(8, opset) for opset in opsets)]
        )


_OPSETS = ((b"", _OPSET), (_CONTRIB.encode(), 1))


def _embedded(made: _Graph, weights: dict[str, Array]) -> str:
    """Word, position and (always the first) type, added up and normalised."""
    start = "inner.embeddings."
    one = made.constant(np.array(1, np.int64))
    length = made.node("Gather", [made.node("Shape", [INPUT]), one])
    positions = made.node("Range", [made.constant(np.array(0, np.int64)), length, one])

    def looked_up(table: str, rows: str) -> str:
        # Looked up in 8 bits: only these rows are ever made wider.
        found = made.node("Gather", [made.constant(weights[f"{start}{table}.weight_q"]), rows])
        scales = made.node("Gather", [made.constant(weights[f"{start}{table}.weight_scale"]), rows])
        return made.node("Mul", [made.node("Cast", [found], to=_FLOAT), scales])

    summed = made.node("Add", [looked_up("word_embeddings", INPUT), looked_up("position_embeddings", positions)])
    summed = made.node("Add", [summed, made.constant(weights[f"{start}token_type_embeddings.weight"][0])])
    return _normalised(made, weights, summed, f"{start}LayerNorm")


def _layer(made: _Graph, weights: dict[str, Array], states: str, start: str, matrices: Sequence[str]) -> str:
    """Attention, then the feed-forward part, each added to what it came from and normalised."""
    query, key, value, merge, widen, narrow = matrices
    projected = [_product(made, weights, states, name) for name in (query, key, value)]
    biases = [weights[f"{start}attention.self.{name}.bias"] for name in ("query", "key", "value")]
    attended = made.node(
        "MultiHeadAttention",
        [*projected, made.constant(np.concatenate(biases))],
        domain=_CONTRIB,
        num_heads=HEADS,
    )
    merged = _product(made, weights, attended, merge, bias=f"{start}attention.output.dense.bias")
    states = _normalised(made, weights, made.node("Add", [merged, states]), f"{start}attention.output.LayerNorm")
    wide = _product(made, weights, states, widen)
    bias = made.constant(weights[f"{start}intermediate.dense.bias"])
    wide = made.node("BiasGelu", [wide, bias], domain=_CONTRIB)
    narrowed = _product(made, weights, wide, narrow, bias=f"{start}output.dense.bias")
    return _normalised(made, weights, made.node("Add", [narrowed, states]), f"{start}output.LayerNorm")


def _product(made: _Graph, weights: dict[str, Array], states: str, matrix: str, *, bias: str | None = None) -> str:
    inputs = [
        states,
        made.constant(weights[f"{matrix}_q"]),
        made.constant(weights[f"{matrix}_scale"].reshape(-1)),
        "",  # no zero points: the weights are symmetric
    ]
    if bias is not None:
        inputs.append(made.constant(weights[bias]))
    return made.node("DynamicQuantizeMatMul", inputs, domain=_CONTRIB)


def _normalised(made: _Graph, weights: dict[str, Array], states: str, name: str) -> str:
    scale, shift = made.constant(weights[f"{name}.weight"]), made.constant(weights[f"{name}.bias"])
    return made.node("LayerNormalization", [states, scale, shift], axis=-1, epsilon=_EPSILON)


def _initializers(model: memoryview) -> dict[str, Array]:
    """The constants of an ONNX model that hold bytes, floats or integers, by name."""
    found = {}
    (graph,) = (value for number, value in _fields(model) if number == 7)
    for number, tensor in _fields(graph):
        if number == 5:
            name, value = _tensor(tensor)
            if value is not None:
                found[name] = value
    return found


def _tensor(tensor: memoryview) -> tuple[str, Array | None]:
    dims: list[int] = []
    name, data, kind = "", memoryview(b""), 0
    for number, value in _fields(tensor):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif number == 2:
            kind = value
        elif number == 8:
            name = str(value, "utf-8")
        elif number == 9:
            data = value
    if kind not in _DTYPES or not data:
        return name, None
    return name, np.frombuffer(data, _DTYPES[kind]).reshape(dims)


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, an int or a view of bytes) of a protocol buffer message. Nothing is copied: weights are large."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            size, position = _varint(message, position)
        yield number, message[position : position + size]
        position += size


def _varints(packed: memoryview) -> Iterator[int]:
    position = 0
    while position < len(packed):
        value, position = _varint(packed, position)
        yield value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def _written(number: int) -> bytes:
    """As a varint; negative numbers in their 64-bit form."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, content: bytes) -> bytes:
    return _written(number << 3 | 2) + _written(len(content)) + content


def _number_field(number: int, value: int) -> bytes:
    return _written(number << 3) + _written(value)


def _attribute(name: str, value: int | float | list[int]) -> bytes:
    start = _field(1, name.encode())
    if isinstance(value, float):
        return start + _written(2 << 3 | 5) + struct.pack("<f", value) + _number_field(20, 1)
    if isinstance(value, int):
        return start + _number_field(3, value) + _number_field(20, 2)
    return start + b"".join(_number_field(8, each) for each in value) + _number_field(20, 7)


def _value(name: str, kind: int, dims: Sequence[int | str]) -> bytes:
    """A named tensor of the graph's interface."""
    sizes = [_number_field(1, dim) if isinstance(dim, int) else _field(2, dim.encode()) for dim in dims]
    shape = b"".join(_field(1, size) for size in sizes)
    return _field(1, name.encode()) + _field(2, _field(1, _number_field(1, kind) + _field(2, shape)))


def _number(name: str) -> int:
    return int(name.split("_")[1])
