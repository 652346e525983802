"""Batches of events as Arrow columns: what `on_batch` of a plug-in is given and may return."""

import pyarrow as pa
import pyarrow.compute as pc

ROW = "_row"
ERROR = "_error"
TEXT = pa.string()
# The types of columns that are no part of the payload.
OWN = {ROW: pa.uint32(), ERROR: TEXT, "topic": TEXT, "key": TEXT, "tags": pa.map_(TEXT, TEXT)}


def read(data):
    """The record batch of a frame."""
    return pa.ipc.open_stream(pa.py_buffer(data)).read_next_batch()


def run(process, batch, failure):
    """What `process` makes of a batch: an IPC stream, and failures by the rows of their events.

    Where it fails, it is called again with each half, so that only events on which it fails alone have failed.
    """
    tables, failed, parts = [], {}, [batch]
    while parts:
        part = parts.pop()
        if part.num_rows == 0:
            continue
        try:
            table = made_of(process(part), part, failed)
            if table is not None:
                tables.append(table)
        except BaseException as error:
            if part.num_rows == 1:
                failed[str(part.column(ROW)[0].as_py())] = failure(error)
            else:
                half = part.num_rows // 2
                parts += [part.slice(half), part.slice(0, half)]
    try:
        return stream(tables), failed
    except pa.ArrowException as error:
        # Halves came out with columns that do not go together.
        told = failure(error)
        return stream([]), {str(row): told for row in batch.column(ROW).to_pylist()}


def made_of(made, given, failed):
    """What came out of a part of a batch, as a table that the node reads."""
    if made is None:
        return None
    if isinstance(made, pa.RecordBatch):
        made = pa.Table.from_batches([made])
    if not isinstance(made, pa.Table):
        raise TypeError(f"on_batch must return a RecordBatch, a Table or None, and returned {type(made).__name__}")
    names = made.column_names
    if len(set(names)) < len(names):
        raise ValueError("on_batch returned two columns with the same name")
    if ROW not in names:
        if made.num_rows != given.num_rows:
            raise ValueError(
                f"on_batch returned {made.num_rows} rows for {given.num_rows} events without the column {ROW}, "
                "which says of which event each row is"
            )
        made = made.append_column(ROW, given.column(ROW))
    columns = {}
    for field, column in zip(made.schema, made.columns):
        if field.name == "time" or pa.types.is_null(field.type):
            continue
        wanted = OWN.get(field.name) or plain(field.type, field.name)
        columns[field.name] = column if field.type.equals(wanted) else column.cast(wanted)
    rows = columns[ROW]
    if rows.null_count or not pc.all(pc.is_in(rows, value_set=given.column(ROW)), min_count=0).as_py():
        raise ValueError(f"the column {ROW} names an event that is not in the batch")
    told = columns.pop(ERROR, None)
    made = pa.table(columns)
    if told is not None and told.null_count < len(told):
        for row, text in zip(rows.to_pylist(), told.to_pylist()):
            if text is not None:
                failed.setdefault(str(row), {"message": text})
        made = made.filter(pc.is_null(told))
    return made


def plain(kind, name):
    """The type in which a column of payloads is sent."""
    types = pa.types
    if types.is_dictionary(kind):
        return plain(kind.value_type, name)
    if types.is_large_string(kind) or types.is_string(kind) or kind.equals(pa.string_view()):
        return TEXT
    if types.is_float16(kind):
        return pa.float32()
    if types.is_decimal(kind):
        return pa.float64()
    if types.is_date64(kind):
        return pa.date32()
    if (
        types.is_boolean(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_timestamp(kind)
        or types.is_date32(kind)
    ):
        return kind
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_type, name))
    if types.is_struct(kind) and kind.num_fields:
        fields = [kind.field(at) for at in range(kind.num_fields)]
        return pa.struct([pa.field(field.name, plain(field.type, name)) for field in fields])
    if types.is_map(kind) and plain(kind.key_type, name).equals(TEXT):
        return pa.map_(TEXT, plain(kind.item_type, name))
    raise TypeError(f"the column {name} has the type {kind}, which has no form in JSON")


def stream(tables):
    """Tables as an IPC stream with one record batch."""
    if not tables:
        batch = pa.record_batch({ROW: pa.array([], pa.uint32())})
    else:
        table = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")
        arrays = [whole(column) for column in table.columns]
        batch = pa.RecordBatch.from_arrays(arrays, names=table.column_names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def whole(column):
    """A column in one piece."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
