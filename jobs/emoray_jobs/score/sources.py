"""What to score or to enrol: recordings, folders, a corpus or a manifest, as an utterances table."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from emoray.corpora.manifest import read as manifest
from emoray.corpora.manifest.files import MANIFEST_SUFFIXES
from emoray.corpora.manifest.read import ManifestConfig
from emoray.errors import InputError
from emoray.lake.tables import Lake
from emoray.schema import empty_row, utterances_table


def read(
    lake: Lake,
    options: ManifestConfig,
    sources: Sequence[str],
    table: str | None,
    transcript: str | None,
    speaker: str | None,
) -> tuple[str, pa.Table]:
    """What to score, as an utterances table, and a name for it."""
    if bool(sources) == bool(table):
        raise InputError(
            "nothing to score" if table is None else "files and a table at once",
            remedy="Name files, or a table: emoray score FILE…",
            kind="nothing_to_score" if table is None else "files_and_table",
        )
    if table is not None:
        if transcript is not None:
            raise InputError(
                "one transcript cannot belong to a whole table",
                where="--transcript",
                remedy="Put transcripts into the table",
                kind="transcript_for_several",
            )
        if table in lake.corpora():
            return table, lake.utterances(table)
        if not table.endswith(MANIFEST_SUFFIXES):
            known = ", ".join(lake.corpora()) or "none"
            raise InputError(
                f"{table!r} is neither a corpus of the lake ({known}) nor a manifest",
                where="--table",
                remedy="Name a corpus, or a csv, jsonl or Parquet file",
                kind="unknown_table",
            )
        label = os.path.splitext(os.path.basename(table))[0]
        return label, _read_manifest(options, label, table)
    return read_sources(options, sources, transcript, speaker)


def read_sources(
    options: ManifestConfig, sources: Sequence[str], transcript: str | None, speaker: str | None = None
) -> tuple[str, pa.Table]:
    """Recordings and folders as an utterances table, and a name for it.

    Raises:
        InputError: One transcript for several files (`transcript_for_several`).
    """
    tables, rows = [], []
    for source in sources:
        if os.path.isdir(source):
            tables.append(_read_manifest(options, "score", source))
        else:
            uri = source if "://" in source else os.path.abspath(source)
            known = {"utterance_id": source, "audio_uri": uri, "transcript": transcript, "speaker_id": speaker}
            rows.append(empty_row() | {"corpus": "score"} | known)
    if transcript is not None and (tables or len(rows) > 1):
        raise InputError(
            "one transcript cannot belong to several files",
            where="--transcript",
            remedy="Score one file at a time",
            kind="transcript_for_several",
        )
    if rows:
        tables.append(utterances_table(rows))
    return os.path.basename(os.path.abspath(sources[0])), pa.concat_tables(tables)


def _read_manifest(options: ManifestConfig, label: str, path: str) -> pa.Table:
    return manifest.read(label, options.model_copy(update={"path": path}))
