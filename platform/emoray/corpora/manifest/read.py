"""Your own recordings: a folder of audio, or a csv, jsonl or parquet manifest with a column map.

Relative audio paths start from the manifest's folder. Manifests of NeMo (`audio_filepath`, `duration`, `text`,
`offset`) and EmoBox, cuts of lhotse and csv of EMO-SUPERB work as they are. Whether the audio files exist is not
checked here: the decode stage quarantines clips that cannot be opened.
"""

from __future__ import annotations

import os

import pyarrow as pa

from emoray.corpora.manifest.files import read_records
from emoray.corpora.manifest.records import RecordsConfig, RecordSource, rows
from emoray.corpora.segment import SegmentConfig
from emoray.errors import InputError
from emoray.schema import utterances_table


class ManifestConfig(RecordsConfig):
    """A manifest.

    Attributes:
        path: Folder of audio, a csv, tsv, jsonl or parquet file, or a fold of EmoBox; local or an fsspec address.
        audio_folder: What relative audio paths start from; null: the manifest's folder.
        segment: Whether its rows are utterances, or recordings to be cut into some.
    """

    path: str | None
    audio_folder: str | None
    segment: SegmentConfig


def read(name: str, config: ManifestConfig) -> pa.Table:
    """Read a manifest into an utterances table.

    Raises:
        InputError: Names the file, the line and the column, and what to do.
        SchemaError: The table breaks its contract.
    """
    if not config.path:
        raise InputError(
            "no manifest is configured",
            where="corpus.manifest.path",
            remedy="Set it to a folder, csv, jsonl or parquet file",
            kind="not_configured",
        )
    path = os.path.expanduser(config.path)
    columns, records, folder = read_records(path)
    if config.audio_folder:
        folder = os.path.expanduser(config.audio_folder)
    return utterances_table(rows(name, RecordSource(path, "corpus.manifest", columns, records, folder), config))
