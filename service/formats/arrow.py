"""Arrow IPC streams: one column per array, one row per item, each row a FixedSizeList of numbers.

Rows of more than one dimension are written as fixed_shape_tensor, and read as that or as nested lists. Files
(application/vnd.apache.arrow.file) are not accepted: their footer can refer to the same bytes any number of times.
https://arrow.apache.org/docs/format/Columnar.html
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from reprlib import repr as brief

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from service.errors import ServiceError, TooLarge, UnreadableBody
from service.formats.arrays import Array, choose, wrong

HEADER_BYTES = 2**16
"""Most bytes of metadata in a message."""
BATCHES = 1000
"""Most record batches of a stream, because each is a Python object."""
NUMBERS = ("uint8", "halffloat", "float", "double")
WANTED = "rows that are a FixedSizeList of uint8 or floating numbers are expected"


def read_arrow(body: bytes, name: str) -> Array:
    """Read the column `name`, or the only column, as (N, …)."""
    try:
        names = _column_names(body)
        name = choose(names, name)
        only = ipc.IpcReadOptions(use_threads=False, included_fields=[names.index(name)])
        with ipc.open_stream(pa.py_buffer(body), options=only) as reader:
            _check_type(reader.schema.field(0).type, name)
            columns = [_rows(batch.column(0), name) for batch in reader]
        return np.concatenate(columns) if columns else np.empty(0, np.float32)
    except ServiceError:
        raise
    except Exception as error:  # pyarrow raises exceptions of many types
        raise UnreadableBody("The body is not a whole Arrow IPC stream: its messages cannot be read.") from error


def write_arrow(arrays: Mapping[str, Array]) -> bytes:
    """Write `arrays` (N, …) as the columns of one record batch."""
    batch = pa.record_batch({name: _column(array) for name, array in arrays.items()})
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _column_names(body: bytes) -> list[str]:
    """Return the names of the columns; check the metadata of each message before pyarrow reads its body."""
    stream = pa.BufferReader(body)
    names: list[str] = []
    for number, message in enumerate(ipc.MessageReader.open_stream(stream)):
        if message.metadata.size > HEADER_BYTES:
            raise TooLarge(f"A message of the Arrow stream has more than {HEADER_BYTES} bytes of metadata.")
        if number > BATCHES:
            raise TooLarge(f"The Arrow stream has more than the {BATCHES} record batches that are taken.")
        if number == 0:
            if message.type != "schema":  # read_schema would crash the process
                raise UnreadableBody("The body is not an Arrow IPC stream: it does not begin with a schema.")
            names = ipc.read_schema(message).names
        elif message.type != "record batch":
            raise wrong(f"The Arrow stream has a {message.type}; record batches of plain numbers alone are taken.")
        elif _is_compressed(message.metadata) or _has_custom_metadata(message.metadata):
            raise wrong("The Arrow stream's buffers are compressed; send them plain, and compress the whole body.")
    if not names:
        raise UnreadableBody("The body is not an Arrow IPC stream: it has no columns.")
    if stream.tell() != len(body):
        raise UnreadableBody("The body is not an Arrow IPC stream: it goes on after its end.")
    return names


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Return whether a record batch has a BodyCompression (Message.fbs), which pyarrow would decompress to any size.

    The metadata is a FlatBuffer whose offsets pyarrow has checked.
    """
    view = memoryview(metadata)
    (root,) = struct.unpack_from("<I", view)
    header = _field(view, root, 2)
    (offset,) = struct.unpack_from("<I", view, header)
    return _field(view, header + offset, 3) != 0


def _has_custom_metadata(metadata: pa.Buffer) -> bool:
    """Return whether a message has custom metadata, where old writers declare compression."""
    view = memoryview(metadata)
    (root,) = struct.unpack_from("<I", view)
    return _field(view, root, 4) != 0


def _field(view: memoryview, table: int, number: int) -> int:
    """Return the offset of a field in a FlatBuffer table; 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", view, table)[0]
    (size,) = struct.unpack_from("<H", view, vtable)
    place = 4 + 2 * number
    offset: int = struct.unpack_from("<H", view, vtable + place)[0] if place < size else 0
    return table + offset if offset else 0


def _check_type(column: pa.DataType, name: str) -> None:
    """Raise InvalidInput unless the rows are numbers in lists of fixed sizes."""
    inner = column.storage_type if isinstance(column, pa.FixedShapeTensorType) else column
    is_list = False
    while pa.types.is_fixed_size_list(inner):
        inner, is_list = inner.value_type, True
    if not is_list or str(inner) not in NUMBERS:
        raise wrong(f"The column {brief(name)} is of {str(column)[:100]}; {WANTED}.")


def _rows(column: pa.Array, name: str) -> Array:
    """Return a column that `_check_type` accepts as (N, …)."""
    column.validate(full=True)
    if not isinstance(column, pa.ExtensionArray):
        return _values(column, name)
    kind = column.type
    stored = _values(column.storage, name).reshape(len(column), *kind.shape)
    return stored.transpose(0, *(1 + axis for axis in kind.permutation or range(len(kind.shape))))


def _values(column: pa.Array, name: str) -> Array:
    if column.null_count:
        raise wrong(f"The column {brief(name)} holds nulls; numbers alone are expected.")
    if not isinstance(column, pa.FixedSizeListArray):
        return np.asarray(column.to_numpy())
    values = _values(column.flatten(), name)
    return values.reshape(len(column), column.type.list_size, *values.shape[1:])


def _column(rows: Array) -> pa.Array:
    """Return rows (N,), (N, D) or (N, …) as a column."""
    numbers = pa.array(rows.reshape(-1))
    if rows.ndim == 1:
        return numbers
    lists = pa.FixedSizeListArray.from_arrays(numbers, prod(rows.shape[1:]))
    if rows.ndim == 2:
        return lists
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(numbers.type, rows.shape[1:]), lists)
