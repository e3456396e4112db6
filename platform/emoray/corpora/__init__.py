"""Corpora: one file per corpus, each reads its own layout and yields the utterances table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import pyarrow as pa

from emoray.config import Section
from emoray.corpora import emodb, folds, huggingface, iemocap, import_report, msp_podcast, segment
from emoray.corpora.emodb import EmodbConfig
from emoray.corpora.huggingface import HuggingfaceConfig
from emoray.corpora.iemocap import IemocapConfig
from emoray.corpora.import_report import ImportReport
from emoray.corpora.manifest import read as manifest
from emoray.corpora.manifest.read import ManifestConfig
from emoray.corpora.msp_podcast import MspPodcastConfig
from emoray.corpora.synthetic import build as synthetic
from emoray.corpora.synthetic.build import SyntheticConfig, ceiling, planted
from emoray.errors import SchemaError
from emoray.lake.tables import Lake
from emoray.schema import assert_speaker_disjoint

__all__ = [
    "CorpusConfig",
    "ImportReport",
    "SyntheticConfig",
    "build",
    "ceiling",
    "folds",
    "import_report",
    "planted",
]

log = logging.getLogger(__name__)

WITH_FOLDS = ("emodb", "iemocap")

Progress = Callable[[int, int], None]


class CorpusConfig(Section):
    """Which corpus, and how it is made or read.

    Attributes:
        name: The table's name in the lake.
        kind: synthetic | emodb | iemocap | msp_podcast | manifest | huggingface.
        synthetic, emodb, iemocap, msp_podcast, manifest, huggingface: Options of each kind.
    """

    name: str
    kind: Literal["synthetic", "emodb", "iemocap", "msp_podcast", "manifest", "huggingface"]
    synthetic: SyntheticConfig
    emodb: EmodbConfig
    iemocap: IemocapConfig
    msp_podcast: MspPodcastConfig
    manifest: ManifestConfig
    huggingface: HuggingfaceConfig


def build(config: CorpusConfig, lake: Lake, progress: Progress) -> pa.Table:
    """Import or make a corpus and write its utterances table; an existing one is reused.

    Beside the table are written the import's report (`utterances_meta/<name>-import.json`: what was left out and why)
    and, where the corpus has folds, its fold file.

    Args:
        progress: Called with utterances done and in all (recordings, while these are cut into utterances).

    Raises:
        InputError: The source is missing, or one of its rows cannot be used.
        SchemaError: The table breaks its contract, or a train speaker occurs in another split.
        MissingExtraError: The synthesiser of the synthetic corpus, or `datasets` for a dataset of Hugging Face, is not
            installed.
    """
    if config.kind == "synthetic":
        table = synthetic.build(config.name, config.synthetic, lake, progress)
        assert_speaker_disjoint(table)
        return table
    table, report = _read(config, lake, progress)
    unknown = assert_speaker_disjoint(table)
    if unknown:
        log.warning(
            "%d of %d utterances have no known speaker: their splits cannot be checked", unknown, table.num_rows
        )
    if report and report.left_out:
        left_out = sum(tally.count for tally in report.left_out.values())
        reasons = ", ".join(f"{reason} ×{tally.count}" for reason, tally in sorted(report.left_out.items()))
        log.warning("%d of %d utterances are left out: %s", left_out, report.read, reasons)
    progress(0, table.num_rows)
    if config.name not in lake.corpora() or not lake.utterances(config.name).equals(table):
        lake.write_utterances(config.name, table)
    import_report.write(lake, config.name, report)
    try:
        folds.write(lake, config.name, table)
    except SchemaError as error:
        if config.kind in WITH_FOLDS:
            raise
        # A manifest's `fold` column may mean something else than a part to leave out.
        log.warning("the column fold is no use for a protocol: %s", error)
        folds.write(lake, config.name, table.slice(0, 0))
    progress(table.num_rows, table.num_rows)
    return table


def _read(config: CorpusConfig, lake: Lake, progress: Progress) -> tuple[pa.Table, ImportReport | None]:
    """The table of an imported corpus, and the report of its import.

    Manifests and datasets take every row or refuse the whole. Recordings that are cut have their own list instead.
    """
    if config.kind == "emodb":
        return emodb.read(config.name, config.emodb)
    if config.kind == "iemocap":
        return iemocap.read(config.name, config.iemocap)
    if config.kind == "msp_podcast":
        return msp_podcast.read(config.name, config.msp_podcast, progress)
    if config.kind == "huggingface":
        table, source = huggingface.read(config.name, config.huggingface, lake, progress), config.huggingface.path
    else:
        table, source = manifest.read(config.name, config.manifest), config.manifest.path
        if config.manifest.segment.kind == "vad":
            return segment.split(config.name, table, config.manifest.segment.vad, lake, progress), None
    return table, ImportReport(source or "", read=table.num_rows, utterances=table.num_rows)
