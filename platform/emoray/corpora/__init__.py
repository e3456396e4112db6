"""Corpora: one file per corpus, each reads its own layout and yields the utterances table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import pyarrow as pa

from emoray.config import Section
from emoray.corpora import emodb, manifest, segment, synthetic
from emoray.corpora.emodb import EmodbConfig
from emoray.corpora.manifest import ManifestConfig
from emoray.corpora.synthetic import SyntheticConfig, ceiling, planted
from emoray.lake import Lake
from emoray.schema import assert_speaker_disjoint

__all__ = ["CorpusConfig", "EmodbConfig", "ManifestConfig", "SyntheticConfig", "build", "ceiling", "planted"]

log = logging.getLogger(__name__)


class CorpusConfig(Section):
    """Which corpus, and how it is made or read.

    Attributes:
        name: The table's name in the lake.
        kind: synthetic | emodb | manifest.
        synthetic, emodb, manifest: Options of each kind.
    """

    name: str
    kind: Literal["synthetic", "emodb", "manifest"]
    synthetic: SyntheticConfig
    emodb: EmodbConfig
    manifest: ManifestConfig


def build(config: CorpusConfig, lake: Lake, progress: Callable[[int, int], None]) -> pa.Table:
    """Import or make a corpus and write its utterances table; what is there already is reused.

    Args:
        config: Which corpus.
        lake: Where the table (and audio that we make) goes.
        progress: Called with utterances done and utterances in all (recordings, while these are cut into utterances).

    Returns:
        The validated utterances table.

    Raises:
        InputError: The source is missing or a row of it cannot be used.
        SchemaError: The table breaks its contract, or a train speaker occurs in another split.
        MissingExtraError: The synthetic corpus is wanted and its synthesiser is not installed.
    """
    if config.kind == "synthetic":
        table = synthetic.build(config.name, config.synthetic, lake, progress)
        assert_speaker_disjoint(table)
        return table
    if config.kind == "emodb":
        table = emodb.read(config.name, config.emodb)
    else:
        table = manifest.read(config.name, config.manifest)
        if config.manifest.segment.kind == "vad":
            table = segment.split(config.name, table, config.manifest.segment.vad, lake, progress)
    unknown = assert_speaker_disjoint(table)
    if unknown:
        log.warning(
            "%d of %d utterances have no known speaker: their splits cannot be checked", unknown, table.num_rows
        )
    progress(0, table.num_rows)
    if config.name not in lake.corpora() or not lake.utterances(config.name).equals(table):
        lake.write_utterances(config.name, table)
    progress(table.num_rows, table.num_rows)
    return table
