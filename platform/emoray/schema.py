"""Column contracts of the tables that all steps share, and their validation.

Dimension order is valence, arousal, dominance everywhere. Labels live in [0, 1]:
(raw − scale_min) / (scale_max − scale_min).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from emoray.errors import SchemaError

DIMENSIONS = ("valence", "arousal", "dominance")
GRANULARITIES = ("les", "gs", "es")
SPLITS = ("train", "dev", "gate", "test")
#: A row by column: of a table, or an utterance on its way through the stages (emoray.stages.base).
Row = dict[str, Any]
UNKNOWN_SPEAKER = "Unknown"

#: A word of a transcript; `emphasised` is the corpus's annotation, where it has one (planted in the synthetic corpus).
WORD = pa.struct(
    [("word", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("emphasised", pa.bool_())],
)

UTTERANCES = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("audio_uri", pa.string(), nullable=False),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("speaker_id", pa.string()),
        ("gender", pa.string()),
        ("language", pa.string()),
        ("split", pa.string()),
        ("fold", pa.int32()),
        ("valence", pa.float64()),
        ("arousal", pa.float64()),
        ("dominance", pa.float64()),
        ("valence_raw", pa.float64()),
        ("arousal_raw", pa.float64()),
        ("dominance_raw", pa.float64()),
        ("scale_min", pa.float64()),
        ("scale_max", pa.float64()),
        ("emotion", pa.string()),
        ("emotion_votes", pa.list_(pa.struct([("emotion", pa.string()), ("votes", pa.float64())]))),
        ("transcript", pa.string()),
        ("words", pa.list_(WORD)),
        ("dialogue_id", pa.string()),
        ("turn", pa.int32()),
    ]
)

ERROR = pa.struct([("type", pa.string()), ("message", pa.string()), ("attempts", pa.int32())])


def stage_schema(value: pa.DataType) -> pa.Schema:
    """Schema of a stage table: the stage's value (a struct) or its error, keyed by utterance_id."""
    return pa.schema(
        [
            pa.field("utterance_id", pa.string(), nullable=False),
            pa.field("value", value),
            pa.field("error", ERROR),
            pa.field("elapsed_s", pa.float64()),
        ]
    )


def empty_row() -> dict[str, object]:
    """A row of the utterances table with every column absent: importers fill in what their corpus has."""
    return dict.fromkeys(UTTERANCES.names)


def utterances_table(rows: Sequence[dict[str, object]]) -> pa.Table:
    """Build and validate an utterances table from rows (missing keys become null).

    Raises:
        SchemaError: A column has the wrong type, or `validate_utterances` refuses the table.
    """
    columns = {}
    for field in UTTERANCES:
        values = [row.get(field.name) for row in rows]
        try:
            columns[field.name] = pa.array(values, field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise SchemaError(
                f"column {field.name!r} does not hold {field.type}: {error}",
                remedy="Fix the values, or map another column to it",
                kind="bad_column_type",
            ) from error
    return validate_utterances(pa.table(columns, schema=UTTERANCES))


def validate_utterances(table: pa.Table) -> pa.Table:
    """Check a table against the utterances contract.

    Raises:
        SchemaError: Names the first offending row and column, and what to do.
    """
    if not table.schema.equals(UTTERANCES):
        missing = [name for name in UTTERANCES.names if name not in table.schema.names]
        extra = [name for name in table.schema.names if name not in UTTERANCES.names]
        raise SchemaError(
            f"table is not an utterances table (missing columns {missing}, unknown columns {extra}, or other types)",
            remedy="Build it with emoray.schema.utterances_table",
            kind="bad_columns",
        )
    frame = pl.DataFrame(table)
    if frame.is_empty():
        raise SchemaError(
            "the table has no utterances", remedy="Check the path or the filters that made it", kind="empty_table"
        )
    for name in ("utterance_id", "corpus", "audio_uri"):
        blank = frame.with_row_index().filter(pl.col(name).is_null() | (pl.col(name) == ""))
        if not blank.is_empty():
            raise SchemaError(
                f"column {name!r} is empty",
                where=f"row {blank['index'][0]}",
                remedy="Give it a value",
                kind="empty_cell",
            )
    twice = frame.group_by("utterance_id").len().filter(pl.col("len") > 1).sort("utterance_id")
    if not twice.is_empty():
        raise SchemaError(
            f"utterance_id {twice['utterance_id'][0]!r} occurs {twice['len'][0]} times"
            f" ({twice.height} duplicate ids in all)",
            remedy="Ids must be unique: drop the repeats, or map another column to utterance_id",
            kind="duplicate_id",
        )
    for name in DIMENSIONS:
        outside = frame.filter((pl.col(name) < 0) | (pl.col(name) > 1) | pl.col(name).is_nan())
        if not outside.is_empty():
            row = outside.row(0, named=True)
            raise SchemaError(
                f"{name} {row[name + '_raw'] if row[name + '_raw'] is not None else row[name]:g} is outside the scale"
                f" {row['scale_min']}..{row['scale_max']} ({outside.height} such rows)",
                where=f"utterance {row['utterance_id']}",
                remedy="Set scale_min and scale_max to the scale that the labels were given on",
                kind="label_off_scale",
            )
    splits = frame.filter(pl.col("split").is_not_null() & ~pl.col("split").str.contains(r"^(train|dev|gate|test\d*)$"))
    if not splits.is_empty():
        row = splits.row(0, named=True)
        raise SchemaError(
            f"split {row['split']!r} is unknown",
            where=f"utterance {row['utterance_id']}",
            remedy="Use train, dev, gate or test (test1, test2 … where a corpus has several)",
            kind="unknown_split",
        )
    turned = frame.filter(
        pl.col("start_s").is_not_null() & pl.col("end_s").is_not_null() & (pl.col("end_s") <= pl.col("start_s"))
    )
    if not turned.is_empty():
        row = turned.row(0, named=True)
        raise SchemaError(
            f"end_s {row['end_s']} is not after start_s {row['start_s']}",
            where=f"utterance {row['utterance_id']}",
            kind="bad_span",
        )
    return table


def assert_speaker_disjoint(table: pa.Table) -> int:
    """Assert that no known speaker of train occurs in another split.

    Returns:
        How many utterances have an unknown speaker (they cannot be checked; callers print the count).

    Raises:
        SchemaError: Names the speaker and the splits.
    """
    frame = pl.DataFrame(table.select(["speaker_id", "split"]))
    known = frame.filter(pl.col("speaker_id").is_not_null() & (pl.col("speaker_id") != UNKNOWN_SPEAKER))
    train = known.filter(pl.col("split") == "train")["speaker_id"].unique()
    shared = known.filter((pl.col("split") != "train") & pl.col("speaker_id").is_in(train.implode()))
    if not shared.is_empty():
        row = shared.sort("speaker_id").row(0, named=True)
        raise SchemaError(
            f"speaker {row['speaker_id']!r} is in train and in {row['split']}",
            remedy="Split by speaker, so that the test measures unseen voices",
            kind="speaker_in_two_splits",
        )
    return frame.height - known.height
