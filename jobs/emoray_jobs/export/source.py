"""Sources of `emoray export`: the configured corpus with its current annotations, or the scores of a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from emoray.errors import InputError
from emoray.interchange.label import SCORE_COLUMNS
from emoray.lake.storage import connect
from emoray.lake.tables import Lake
from emoray.schema import ERROR
from emoray.stages import pipeline
from emoray.stages.config import AnnotateConfig
from emoray_jobs.annotate.state import load_norms, select_splits
from emoray_jobs.pipeline.batches import join_stage_values

#: Stages with readable values; the values of the others are measurements per frame, and vectors.
READABLE_STAGES = ("quality", "transcribe", "emphasis", "semantics")
JSON_SUFFIXES = (".jsonl", ".json")


@dataclass(frozen=True)
class Source:
    """The exported rows.

    Attributes:
        label: Its name: the corpus's, or the scores'.
        what: The same in words.
        table: Its rows, without the stages' values.
        model: Model and version that scored it; None for a corpus.
        fingerprints: Of the stages whose values stand beside the utterances.
    """

    label: str
    what: str
    table: pa.Table
    model: str | None
    fingerprints: dict[str, str]


def corpus_source(lake: Lake, corpus: str, annotate: AnnotateConfig, splits: Sequence[str]) -> Source:
    """A corpus, and those of its annotations that are there."""
    table = select_splits(lake.utterances(corpus), splits)
    fingerprints: dict[str, str] = {}
    if lake.list_folders("annotations"):
        norms = load_norms(lake, corpus, annotate)
        current = pipeline.fingerprints(annotate, None if norms is None else norms.hash)
        fingerprints = {
            stage: current[stage]
            for stage in READABLE_STAGES
            if stage in current and lake.list_files("annotations", stage, current[stage])
        }
    return Source(corpus, f"corpus {corpus}", table.sort_by("utterance_id"), None, fingerprints)


def table_parts(lake: Lake, source: Source) -> Iterator[pa.Table]:
    """The rows with columns of the stages' values; all parts have one schema."""
    if not source.fingerprints:
        yield source.table
        return
    types = {stage: pa.null() for stage in source.fingerprints}
    for stage, mark in source.fingerprints.items():
        dataset = lake.dataset("annotations", stage, mark)
        if dataset is not None:
            types[stage] = dataset.schema.field("value").type
    schema = pa.schema([*source.table.schema, *(pa.field(stage, kind) for stage, kind in types.items())])
    ids = pl.Series(source.table["utterance_id"])
    for part in join_stage_values(lake, pads.dataset(source.table), ids, source.fingerprints):
        yield part.cast(schema)


def scores_source(lake: Lake, name: str, splits: Sequence[str]) -> Source:
    """Scores by name or file, with the clips' times if their corpus is in the lake."""
    if name.endswith(JSON_SUFFIXES):
        label, table = os.path.splitext(os.path.basename(name))[0], _from_json(name)
    elif name.endswith(".parquet"):
        label, table = os.path.splitext(os.path.basename(name))[0], _read(lake, name)
    else:
        label, _, file = name.partition("/")
        path = _find(lake, label, file)
        label, table = f"{label}/{os.path.splitext(os.path.basename(path))[0]}", _read(lake, path, stored=True)
    missing = [column for column in SCORE_COLUMNS if column not in table.column_names]
    if missing:
        raise _not_scores(
            f"these are no scores: there is no column {missing[0]!r}", name, "Make some: emoray score --table"
        )
    corpus = label.split("/")[0]
    if corpus in lake.corpora():
        table = _beside(table, lake.utterances(corpus, ["utterance_id", "start_s", "end_s", "split"]))
    if splits:
        if "split" not in table.column_names:
            raise InputError(
                f"scores of {corpus!r}, which is no corpus of the lake, have no splits",
                where="--split",
                remedy="Leave it out",
                kind="no_such_split",
            )
        table = select_splits(table, splits)
    known = sorted({f"{model}-{version}" for model, version in _versions(table)})
    return Source(label, f"scores {label}", table.sort_by("utterance_id"), ", ".join(known) or "unknown", {})


def _find(lake: Lake, label: str, file: str) -> str:
    """Path of a table's scores."""
    found = {os.path.splitext(os.path.basename(path))[0]: path for path in lake.list_files("scores", label)}
    if not found:
        known = ", ".join(lake.list_folders("scores")) or "none"
        raise InputError(
            f"no scores of {label!r} (there are: {known})",
            where="--scores",
            remedy="Make them: emoray score --table",
            kind="no_such_scores",
        )
    if file:
        if file not in found:
            raise InputError(
                f"no scores {file!r} of {label!r}",
                where="--scores",
                remedy=f"There are {', '.join(sorted(found))}",
                kind="no_such_scores",
            )
        return found[file]
    if len(found) > 1:
        choices = ", ".join(f"{label}/{name}" for name in sorted(found))
        raise InputError(
            f"{label!r} was scored more than once",
            where="--scores",
            remedy=f"Name one of {choices}",
            kind="ambiguous_scores",
        )
    return next(iter(found.values()))


def _read(lake: Lake, path: str, *, stored: bool = False) -> pa.Table:
    system, inner = (lake.fs, path) if stored else connect(path if "://" in path else os.path.abspath(path))
    try:
        with system.open(inner) as file:
            return pq.read_table(file)
    except FileNotFoundError:
        raise InputError("no such file", where=path, remedy="Check --scores", kind="missing_file") from None
    except pa.ArrowInvalid as error:
        raise _not_scores(f"not a Parquet file ({error})", path, "Check --scores") from None


def _from_json(path: str) -> pa.Table:
    """The output of `emoray score --json` as the rows of a table of scores, with time courses."""
    from emoray_jobs.score.stage import ScoreStage, with_score_columns

    rows = []
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read it ({error})", where=path, remedy="Check --scores", kind="unreadable_file"
        ) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
            rows.append({**{name: one[name] for name in ("utterance_id", "error", "value")}, "audio_uri": _audio(one)})
        except (json.JSONDecodeError, TypeError, KeyError, RecursionError) as error:
            what = f"not a line of `emoray score --json` ({error!r})"
            raise _not_scores(what, f"{path}, line {number}", "Write the file again") from None
    schema = pa.schema(
        [("utterance_id", pa.string()), ("audio_uri", pa.string()), ("error", ERROR), ("value", ScoreStage.value_type)]
    )
    try:
        table = pa.Table.from_pylist(rows, schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        what = f"not the output of `emoray score --json` ({error})"
        raise _not_scores(what, path, "Write the file again") from None
    return with_score_columns(table.drop_columns(["value"]), table["value"])


def _not_scores(what: str, where: str, remedy: str) -> InputError:
    return InputError(what, where=where, remedy=remedy, kind="not_scores")


def _audio(one: dict[str, Any]) -> str:
    """The address of the audio; the id of a file that was scored by name is its path."""
    name = str(one.get("audio_uri") or one["utterance_id"])
    return name if "://" in name else os.path.abspath(name)


def _beside(table: pa.Table, utterances: pa.Table) -> pa.Table:
    """Add the corpus's times and splits to its scores."""
    place = pc.index_in(table["utterance_id"], value_set=utterances["utterance_id"].combine_chunks())
    for name in ("start_s", "end_s", "split"):
        if name not in table.column_names:
            table = table.append_column(name, utterances[name].combine_chunks().take(place))
    return table


def _versions(table: pa.Table) -> set[tuple[str, str]]:
    pairs = zip(table["model"].to_pylist(), table["model_version"].to_pylist(), strict=True)
    return {(model, version) for model, version in pairs if version is not None}
