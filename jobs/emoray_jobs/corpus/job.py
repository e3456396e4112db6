"""corpus: import one into the lake, look at it, list what there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.text import Text

from emoray import corpora
from emoray.corpora.import_report import Published
from emoray.lake.tables import Lake
from emoray.schema import DIMENSIONS, UNKNOWN_SPEAKER
from emoray_jobs.progress import track
from emoray_jobs.tables import titled_table

if TYPE_CHECKING:
    from emoray_jobs.config import Config

BINS = 8
BAR = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class SplitStats:
    """What one split holds.

    Attributes:
        split: Its name; `none` for utterances without one.
        speakers: Known speakers.
        unknown_speakers: Utterances whose speaker is not known.
        hours: Hours of audio; utterances of unknown length are not counted.
    """

    split: str
    utterances: int
    speakers: int
    unknown_speakers: int
    hours: float


@dataclass(frozen=True)
class Stats:
    """What a corpus holds.

    Attributes:
        splits: Per split, train first.
        histograms: Per labelled dimension, the utterances in each of `BINS` equal bins of [0, 1].
        emotions: Utterances per emotion, the most frequent first.
        scale: Ends of the labels' scale, or None without dimensional labels.
        transcripts: Utterances with a transcript.
        timed: Utterances whose words have times.
        voted: Utterances with raters' votes.
        books: What the import left out and found odd, and what was published; None where nothing was imported.
    """

    corpus: str
    splits: list[SplitStats]
    histograms: dict[str, list[int]]
    emotions: dict[str, int]
    scale: tuple[float, float] | None
    transcripts: int
    timed: int = 0
    voted: int = 0
    dialogues: int = 0
    books: corpora.ImportReport | None = None
    folds: tuple[corpora.folds.Fold, ...] = ()


@dataclass(frozen=True)
class Listing:
    """The corpora of a lake: name → utterances."""

    root: str
    corpora: dict[str, int]


def build(config: Config) -> Stats:
    """Import the configured corpus, or make it; what is there already is reused.

    Raises:
        InputError: The source cannot be used.
        SchemaError: The table breaks its contract.
        MissingExtraError: The synthesiser is not installed.
    """
    cuts = config.corpus.kind == "manifest" and config.corpus.manifest.segment.kind == "vad"
    with track(f"building {config.corpus.name}", "recordings" if cuts else "utterances") as advance:
        corpora.build(config.corpus, Lake(config.lake), advance)
    return stats(config)


def stats(config: Config) -> Stats:
    """Look at the configured corpus.

    Raises:
        LakeError: It is not in the lake.
    """
    lake, name = Lake(config.lake), config.corpus.name
    frame = pl.DataFrame(lake.utterances(name))
    known = pl.col("speaker_id").is_not_null() & (pl.col("speaker_id") != UNKNOWN_SPEAKER)
    seconds = pl.coalesce("duration_s", pl.col("end_s") - pl.col("start_s"))
    splits = frame.group_by(pl.col("split").fill_null("none")).agg(
        pl.len().alias("utterances"),
        pl.col("speaker_id").filter(known).n_unique().alias("speakers"),
        (~known).sum().alias("unknown_speakers"),
        (seconds.sum() / 3600).alias("hours"),
    )
    order = {name: place for place, name in enumerate(("train", "dev", "gate"))}
    rows = sorted(splits.iter_rows(named=True), key=lambda row: (order.get(row["split"], len(order)), row["split"]))
    scales = frame.select("scale_min", "scale_max").drop_nulls()
    counted = frame["emotion"].drop_nulls().value_counts(sort=True)
    return Stats(
        corpus=name,
        splits=[SplitStats(**row) for row in rows],
        histograms={name: _histogram(frame[name]) for name in DIMENSIONS if frame[name].count()},
        emotions=dict(counted.iter_rows()),
        scale=None if scales.is_empty() else (scales["scale_min"].min(), scales["scale_max"].max()),  # type: ignore[arg-type]
        transcripts=frame["transcript"].count(),
        timed=frame["words"].count(),
        voted=frame["emotion_votes"].count(),
        dialogues=frame["dialogue_id"].drop_nulls().n_unique(),
        books=corpora.import_report.read(lake, name, frame.height),
        folds=tuple(corpora.folds.read(lake, name)) if corpora.folds.known(lake, name) else (),
    )


def listing(config: Config) -> Listing:
    """The corpora of the lake."""
    lake = Lake(config.lake)
    return Listing(lake.root, {name: lake.utterances(name, ["utterance_id"]).num_rows for name in lake.corpora()})


def _histogram(values: pl.Series) -> list[int]:
    bins = (values.drop_nulls() * BINS).floor().clip(0, BINS - 1).cast(pl.Int64)
    return [int((bins == place).sum()) for place in range(BINS)]


def render(result: Stats | Listing) -> RenderableType:
    """Statistics or the list, as they are printed."""
    if isinstance(result, Listing):
        lines = [f"{name}: {rows:,} utterances" for name, rows in result.corpora.items()]
        return Text("\n".join(lines) or f"no corpora in {result.root} yet: emoray corpus build")
    published = result.books.published if result.books else None
    figures = ["utterances", "speakers", "of unknown speakers", "hours"]
    if published and published.splits:
        figures.append(f"published ({published.version})")
    table = titled_table(f"corpus {result.corpus}", ("split",), figures)
    for split in result.splits:
        cells = [f"{split.utterances:,}", f"{split.speakers:,}", f"{split.unknown_speakers:,}", f"{split.hours:.2f}"]
        if published and published.splits:
            cells.append(_published_split(published, split.split))
        table.add_row(split.split, *cells)
    beside = f"{result.transcripts:,} with a transcript"
    beside += f", {result.timed:,} with word times, {result.voted:,} with raters' votes"
    beside += f", {result.dialogues:,} dialogues" if result.dialogues else ""
    parts: list[RenderableType] = [table, beside]
    if result.scale:
        low, high = result.scale
        bars = [f"{name} {_bars(counts)}" for name, counts in result.histograms.items()]
        parts.append(Columns([f"labels {low:g}..{high:g}:", *bars], padding=(0, 2)))
    if result.emotions:
        parts.append(", ".join(f"{name} {number:,}" for name, number in result.emotions.items()))
    if result.folds:
        said = "; ".join(f"{fold.fold}: test {fold.test}, dev {fold.dev}" for fold in result.folds)
        parts.append(f"{len(result.folds)} folds, the other parts train: {said}")
    if result.books:
        parts += _books(result.books, sum(split.hours for split in result.splits))
    return Group(*(Text(part) if isinstance(part, str) else part for part in parts))


def _published_split(published: Published, split: str) -> str:
    if split not in published.splits:
        return ""
    speakers = published.speakers.get(split)
    return f"{published.splits[split]:,}" + (f" by {speakers:,} speakers" if speakers else "")


def _books(books: corpora.ImportReport, hours: float) -> list[RenderableType]:
    """What the import read, left out and found odd, with the published counts beside."""
    out = sum(tally.count for tally in books.left_out.values())
    lines: list[RenderableType] = [
        f"{books.read:,} read from {books.source}: {books.utterances:,} in the table, {out:,} left out"
    ]
    for title, tallies in (("left out", books.left_out), ("noted", books.noted)):
        ordered = sorted(tallies.items(), key=lambda item: (-item[1].count, item[0]))
        for reason, tally in ordered:
            more = " …" if tally.count > len(tally.first) else ""
            lines.append(f"  {title}: {tally.count:,} {reason} ({', '.join(tally.first)}{more})")
    if books.published:
        published = books.published
        said = f"published ({published.version}): {published.utterances:,} utterances"
        said += f", {published.hours:,.0f} h (here {hours:,.1f})" if published.hours else ""
        ordered_classes = sorted(published.emotions.items(), key=lambda item: -item[1])
        said += "".join(f", {name} {number:,}" for name, number in ordered_classes)
        lines.append(said)
    elif books.version:
        lines.append(f"version {books.version}: no published counts known here")
    return lines


def _bars(counts: list[int]) -> str:
    top = max(counts)
    return "".join(BAR[round(number / top * (len(BAR) - 1))] for number in counts)
