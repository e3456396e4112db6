"""corpus import: what `emoray export` wrote, or others did in the same formats, into the lake as a corpus."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyarrow as pa

from emoray.errors import InputError
from emoray.interchange import audformat_database, audformat_reader, emotionml_reader, label, parquet
from emoray.lake.tables import Lake
from emoray.schema import assert_speaker_disjoint
from emoray_jobs.corpus import job as corpus

if TYPE_CHECKING:
    from emoray_jobs.config import Config


def run(config: Config, *, path: str, force: bool = False) -> corpus.Stats:
    """Import an audformat database, an EmotionML document or exported Parquet as the corpus `corpus.name`.

    Raises:
        InputError: There is a corpus of that name, or the source is none of the three or breaks their rules.
        SchemaError: The table breaks its contract, or a train speaker occurs in another split.
        MissingExtraError: audformat is not installed.
    """
    lake, name = Lake(config.lake), config.corpus.name
    if name in lake.corpora() and not force:
        raise InputError(
            f"corpus {name!r} is in this lake already",
            where=lake.root,
            remedy="Take another name with --set corpus.name=…, or replace it with --force",
            kind="exists",
        )
    table = _read(os.path.expanduser(path), name)
    assert_speaker_disjoint(table)
    lake.write_utterances(name, table)
    return corpus.stats(config)


#: The corpus's statistics, as they are printed.
render = corpus.render


def _read(path: str, name: str) -> pa.Table:
    if audformat_database.exists(path):
        return audformat_reader.read(path, name)
    if path.endswith((".xml", ".emotionml")):
        return label.utterances(emotionml_reader.read(path).labels, name, path)
    if path.endswith(".parquet"):
        return parquet.read(path, name)
    raise InputError(
        "neither an audformat database (a folder with db.yaml) nor .xml, .emotionml or .parquet",
        where=path,
        remedy="csv, jsonl and folders of audio are manifests: emoray corpus build --set corpus.kind=manifest",
        kind="unknown_format",
    )
