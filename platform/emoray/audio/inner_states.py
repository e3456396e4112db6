"""Further outputs of a network in ONNX Runtime's own format: values that it computes inside and does not return.

A file of that format (`.ort`) is a FlatBuffer, in which the names of the graph's outputs are a vector of strings. A
longer vector is put behind the rest, and the graph's field points there: no weight is touched, no file is written.
The layout is that of onnxruntime/core/flatbuffers/schema/ort.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import flatbuffers
from flatbuffers.table import Table

#: Where the fields stand in the tables' lists of fields: InferenceSession.model, Model.graph, Graph.outputs.
MODEL, GRAPH, OUTPUTS = 6, 18, 16


def with_outputs(network: bytes, names: Sequence[str]) -> bytes:
    """The network with these values as its outputs; ONNX Runtime refuses a name that it does not compute."""
    grown = bytearray(network)
    root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, grown, 0)
    graph = _inner(_inner(Table(grown, root), MODEL), GRAPH)
    field = graph.Pos + graph.Offset(OUTPUTS)
    grown += bytes(-len(grown) % 4)
    strings = [_string(name.encode()) for name in names]
    # The vector: its length, then for each string how far behind this entry it begins. The field in the same way.
    place = 4 * len(names)
    vector = [len(names)]
    for string in strings:
        vector.append(place)
        place += len(string) - 4
    struct.pack_into("<I", grown, field, len(grown) - field)
    return bytes(grown) + struct.pack(f"<{len(vector)}I", *vector) + b"".join(strings)


def _inner(table: Table, field: int) -> Table:
    return Table(table.Bytes, table.Indirect(table.Pos + table.Offset(field)))


def _string(text: bytes) -> bytes:
    """A FlatBuffer's string: its length, the bytes, a zero, and zeros up to a multiple of four."""
    ended = text + b"\0"
    return struct.pack("<I", len(text)) + ended + bytes(-len(ended) % 4)
