"""Parquet: every row and column as it is, in one file."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from emoray.errors import InputError
from emoray.interchange.label import ExportStats
from emoray.schema import UTTERANCES, validate_utterances


def write(path: str, tables: Iterable[pa.Table], stats: ExportStats) -> None:
    """Write parts of one table; only one of them is in memory at a time."""
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            stats.rows += table.num_rows
            stats.written += table.num_rows
    finally:
        if writer is not None:
            writer.close()


def read(path: str, corpus: str) -> pa.Table:
    """The utterances of a file that `write` wrote of a corpus, under a new corpus name; further columns are ignored.

    Raises:
        InputError: It is not such a file.
        SchemaError: The table breaks its contract.
    """
    try:
        names = pq.read_schema(path).names
        missing = [name for name in UTTERANCES.names if name not in names]
        if missing:
            raise InputError(
                f"not an exported corpus: it has no column {missing[0]!r}",
                where=path,
                remedy="Other Parquet files are manifests: corpus.kind=manifest, corpus.manifest.path=FILE",
                kind="missing_column",
            )
        table = pq.read_table(path, columns=UTTERANCES.names).cast(UTTERANCES)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        remedy = "Export the corpus again: emoray export parquet"
        what = f"not a Parquet file of utterances ({error})"
        raise InputError(what, where=path, remedy=remedy, kind="damaged_file") from None
    place = table.schema.get_field_index("corpus")
    renamed = table.set_column(place, UTTERANCES.field("corpus"), pa.array([corpus] * table.num_rows, pa.string()))
    return validate_utterances(renamed)
