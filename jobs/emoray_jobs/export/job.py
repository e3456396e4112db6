"""export: a corpus of the lake, or a table's scores, in a format that other programs read. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from rich.console import Group, RenderableType

from emoray.errors import InputError
from emoray.interchange import audformat_database, emotionml, msp_submission, parquet
from emoray.interchange.atomic_output import atomic_output
from emoray.interchange.label import ExportStats, labels
from emoray.lake.tables import Lake
from emoray.schema import DIMENSIONS
from emoray_jobs.export.source import Source, corpus_source, scores_source, table_parts
from emoray_jobs.progress import spinner

if TYPE_CHECKING:
    from emoray_jobs.config import Config

Format = Literal["audformat", "emotionml", "msp", "parquet"]

#: Suffix of an export's name; a database is a folder.
SUFFIXES: dict[Format, str] = {"audformat": "", "emotionml": ".emotionml.xml", "msp": ".csv", "parquet": ".parquet"}


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        what: What was exported, in words.
        rows: Rows that there were.
        written: Rows that it holds.
        left_out: Rows that it does not hold, by reason.
        columns_left_out: Columns with values that the format has no place for.
        notes: What else the user should know.
    """

    format: Format
    what: str
    address: str
    rows: int
    written: int
    left_out: dict[str, int]
    columns_left_out: list[str]
    notes: list[str]


def run(
    config: Config,
    *,
    format: Format,
    scores: str | None = None,
    out: str | None = None,
    splits: Sequence[str] = (),
    audio_root: str | None = None,
    force: bool = False,
) -> ExportResult:
    """Export the configured corpus with its current annotations, or scores.

    Args:
        scores: Instead of the corpus: name of a table's scores in the lake (`calls`, or `calls/emoray-3-full` where
            there are several), a Parquet file of them, or a file that `emoray score --json` printed.

    Raises:
        InputError: There is nothing to export, it cannot be said in this format, or something is there already.
        LakeError: The corpus or the scores are not in the lake.
        MissingExtraError: audformat is not installed.
    """
    lake = Lake(config.lake)
    if format == "audformat":
        audformat_database.library()  # before any work is done
    if audio_root is not None and format in ("msp", "parquet"):
        raise InputError(f"{format} does not use it", where="--audio-root", remedy="Leave it out", kind="unused_option")
    if scores is None:
        source = corpus_source(lake, config.corpus.name, config.annotate, splits)
    else:
        source = scores_source(lake, scores, splits)
    if not source.table.num_rows:
        raise InputError(
            "there is nothing to export", where=source.what, remedy="See emoray corpus stats", kind="nothing_to_export"
        )
    if out is None:
        out = lake.uri("exports", f"{source.label.replace('/', '-')}{SUFFIXES[format]}")
    stats = ExportStats()
    header = audformat_database.HEADER if format == "audformat" else None
    with (
        spinner(f"exporting {source.what}"),
        atomic_output(out, config.lake.storage_options, force=force, header=header) as path,
    ):
        _write(format, path, lake, source, stats, audio_root)
        if not stats.written:
            reasons = ", ".join(f"{why}: {rows:,}" for why, rows in stats.left_out.most_common())
            raise InputError(
                f"nothing could be written ({reasons})",
                where=source.what,
                remedy="Choose another format",
                kind="nothing_to_export",
            )
    if scores is None and format in ("audformat", "parquet"):
        found = ", ".join(source.fingerprints) or "none for this configuration"
        stats.notes.append(f"annotations: {found}")
    missing = _no_place(format, source)
    return ExportResult(format, source.what, out, stats.rows, stats.written, dict(stats.left_out), missing, stats.notes)


def _write(format: Format, path: str, lake: Lake, source: Source, stats: ExportStats, audio_root: str | None) -> None:
    """Write the format's file or folder."""
    if format == "parquet":
        parquet.write(path, table_parts(lake, source), stats)
    elif format == "msp":
        msp_submission.write(path, labels([source.table], stats), stats)
    elif format == "emotionml":
        emotionml.write(path, labels([source.table], stats), stats, audio_root=audio_root)
    else:
        audformat_database.write(
            path,
            source.label.replace("/", "-"),
            pa.concat_tables(table_parts(lake, source)),
            labels([source.table], stats),
            stats,
            audio_root=audio_root,
            model=source.model,
            stages=list(source.fingerprints),
        )


def _no_place(format: Format, source: Source) -> list[str]:
    """Columns with values that the format has no place for."""
    if format == "parquet":
        return []
    held = {
        "utterance_id",
        "audio_uri",
        "corpus",
        *DIMENSIONS,
        *(f"{name}_{raw}" for name in DIMENSIONS for raw in ("raw", "corpus")),
    }
    if format == "msp":
        held.remove("utterance_id")
    else:
        held |= {"start_s", "end_s", "scale", "scale_min", "scale_max", "emotion", "model", "model_version"}
        held |= {f"{name}_{end}" for name in DIMENSIONS for end in ("low", "high", "corpus_low", "corpus_high")}
    if format == "emotionml":
        held |= {"time_course"}
    if format == "audformat":
        held |= {*audformat_database.COLUMNS, "emotion_votes", "words"}
    present = [name for name in source.table.column_names if source.table[name].null_count < source.table.num_rows]
    stages = [] if format == "audformat" else list(source.fingerprints)
    return [name for name in [*present, *stages] if name not in held | {"error"}]


def render(result: ExportResult) -> RenderableType:
    """What was exported, as it is printed."""
    lines = [f"{result.what}: {result.written:,} of {result.rows:,} rows as {result.format}"]
    lines += [f"  left out: {rows:,} ({why})" for why, rows in sorted(result.left_out.items())]
    if result.columns_left_out:
        lines.append(f"  the format has no place for: {', '.join(result.columns_left_out)}")
    lines += [f"  {note}" for note in result.notes]
    return Group(*lines, result.address)
