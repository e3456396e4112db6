"""leaderboard: every registered version on the corpus's test splits, best first, as an HTML page.

The page rests on the reports that evaluate stored; versions that were never evaluated are evaluated first. The same
command makes it anew, and scores nothing twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table

from emoray.errors import EmorayError, InputError
from emoray.evaluation import pages
from emoray.evaluation.bootstrap import paired_difference
from emoray.evaluation.metrics import categorical, mean_ccc
from emoray.evaluation.summary import LEVELS, check_predictions
from emoray.lake.tables import Lake
from emoray.registry.tracking import connect
from emoray.registry.versions import CHALLENGER, CHAMPION, all_versions, find_alias
from emoray_jobs.config import options
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.evaluate.stored import TITLES, EvaluateResult, SplitReport, cell, stored_predictions
from emoray_jobs.progress import track

if TYPE_CHECKING:
    from emoray_jobs.config import Config


@dataclass(frozen=True)
class Standing:
    """A version's place on one split.

    Attributes:
        version: Its number.
        kind: Name of its model.
        aliases: Its aliases.
        level: Semantic level that it was judged at: all that it hears.
        metrics: Metric → interval as JSON.
        difference: Paired difference of the headline metric to the first, as JSON; None for the first, and where the
            two cannot be compared.
    """

    version: str
    kind: str
    aliases: tuple[str, ...]
    level: str
    metrics: dict[str, dict[str, Any]]
    difference: dict[str, Any] | None


@dataclass(frozen=True)
class SplitBoard:
    """The standings on one split.

    Attributes:
        name: The split.
        headline: Metric that orders them.
        metrics: Metrics that are shown.
        standings: Best first.
        n_clips: Clips of the first.
        n_speakers: Their known speakers.
        unit: What intervals resample.
        ceiling: Metric → the best that any predictor can reach, where it is known.
    """

    name: str
    headline: str
    metrics: list[str]
    standings: list[Standing]
    n_clips: int
    n_speakers: int
    unit: str
    ceiling: dict[str, float]


@dataclass(frozen=True)
class LeaderboardResult:
    """A leaderboard.

    Attributes:
        title: Headline.
        corpus: Name of the corpus.
        splits: One board per test split.
        skipped: Version → why it is not in the table.
        synthetic: The corpus is synthetic.
        command: What makes the page anew.
        page: Address of the page.
    """

    title: str
    corpus: str
    splits: list[SplitBoard]
    skipped: dict[str, str]
    synthetic: bool
    command: str
    page: str


def run(config: Config) -> LeaderboardResult:
    """Bring every registered version onto the leaderboard of the configured corpus.

    Raises:
        InputError: No version is registered, or none can be judged on this corpus.
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    registered = all_versions(tracking)
    named: dict[str, list[str]] = defaultdict(list)  # what a search finds does not say its aliases
    for alias in (CHAMPION, CHALLENGER):
        if (holder := find_alias(tracking, alias)) is not None:
            named[holder.version].append(alias)
    if not registered:
        raise InputError(f"model {tracking.model_name!r} has no version yet", remedy="Train one first: emoray train")
    skipped: dict[str, str] = {}
    judged: dict[str, list[tuple[EvaluateResult, SplitReport]]] = defaultdict(list)
    with track("evaluating", "versions") as advance:
        for done, version in enumerate(registered, start=1):
            try:
                result = evaluate.run(config, model=version.version)
            except EmorayError as error:
                skipped[version.version] = str(error)
            else:
                for report in result.reports:
                    judged[report.split].append((result, report))
            advance(done, len(registered))
    if not judged:
        raise InputError(
            f"no version of {tracking.model_name!r} can be judged on corpus {config.corpus.name!r}: "
            + "; ".join(f"version {version}: {why}" for version, why in skipped.items())
        )
    where = ("reports", "leaderboards", f"{tracking.model_name}-{config.corpus.name}.html")
    board = LeaderboardResult(
        title=f"{tracking.model_name} on {config.corpus.name}",
        corpus=config.corpus.name,
        splits=[_board(config, lake, split, found, named) for split, found in sorted(judged.items())],
        skipped=skipped,
        synthetic=config.corpus.kind == "synthetic",
        command=f"emoray leaderboard{options(config)} --set corpus.name={config.corpus.name}",
        page=lake.uri(*where),
    )
    percent = f"{100 * config.evaluate.interval_level:g}"
    page = pages.render("leaderboard.html.j2", board=board, percent=percent, titles=TITLES)
    lake.write_bytes(page.encode(), *where)
    return board


def _board(
    config: Config,
    lake: Lake,
    split: str,
    judged: list[tuple[EvaluateResult, SplitReport]],
    named: Mapping[str, Sequence[str]],
) -> SplitBoard:
    headline = "ccc_mean" if any(report.metrics["dimensions"] for _, report in judged) else "ua"
    ordered = sorted(judged, key=lambda one: _headline(one[1], headline), reverse=True)
    best = ordered[0][1].metrics
    names = [f"ccc_{name}" for name in best["dimensions"]] + (["ccc_mean"] if best["dimensions"] else [])
    names += ["ua", "wa"] if any(report.metrics["classes"] for _, report in judged) else []
    limits = {f"ccc_{name}": value for name, value in (best["about"]["ceiling"] or {}).items()}
    if limits:
        limits.setdefault("ccc_mean", sum(limits.values()) / len(limits))
    return SplitBoard(
        name=split,
        headline=headline,
        metrics=names,
        standings=[
            Standing(
                version=result.version,
                kind=result.kind,
                aliases=tuple(named.get(result.version, ())),
                level=_fullest(report),
                metrics=report.metrics["levels"][_fullest(report)]["metrics"],
                difference=None if place == 0 else _behind(config, lake, headline, ordered[0], (result, report)),
            )
            for place, (result, report) in enumerate(ordered)
        ],
        n_clips=best["n_clips"],
        n_speakers=best["n_speakers"],
        unit=best["unit"],
        ceiling=limits,
    )


def _fullest(report: SplitReport) -> str:
    return str(list(report.metrics["levels"])[-1])


def _headline(report: SplitReport, name: str) -> float:
    entry = report.metrics["levels"][_fullest(report)]["metrics"].get(name) or {}
    return -2.0 if entry.get("estimate") is None else float(entry["estimate"])


def _behind(
    config: Config,
    lake: Lake,
    headline: str,
    first: tuple[EvaluateResult, SplitReport],
    other: tuple[EvaluateResult, SplitReport],
) -> dict[str, Any] | None:
    """Paired difference of a version to the first, on the clips that both scored."""
    sides = (other, first)
    if headline == "ccc_mean":
        dimensions = sides[0][1].metrics["dimensions"]
        if dimensions != sides[1][1].metrics["dimensions"]:
            return None
        metric = mean_ccc(dimensions)
    else:
        classes = sides[0][1].metrics["classes"]
        if classes != sides[1][1].metrics["classes"]:
            return None
        metric = categorical(headline, classes)
    mine, best = (
        check_predictions(stored_predictions(lake, result, report)).filter(pl.col("level") == _fullest(report))
        for result, report in sides
    )
    both = pl.col("utterance_id").is_in(set(mine["utterance_id"]) & set(best["utterance_id"]))
    return paired_difference(metric, mine.filter(both), best.filter(both), **config.evaluate.bootstrap).to_dict()


def render(result: LeaderboardResult) -> RenderableType:
    """The tables as they are printed."""
    parts: list[RenderableType] = []
    for board in result.splits:
        table = Table(title=f"{result.title}, {board.name}: {board.n_clips:,} clips", title_justify="left")
        for column in ("version", "model", "hears"):
            table.add_column(column)
        for name in board.metrics:
            table.add_column(TITLES[name], justify="right")
        table.add_column("behind the first", justify="right")
        for row in board.standings:
            alias = f" ({', '.join(row.aliases)})" if row.aliases else ""
            cells = [cell(row.metrics.get(name)) for name in board.metrics]
            hears = LEVELS.get(row.level, row.level)
            table.add_row(f"{row.version}{alias}", row.kind, hears, *cells, cell(row.difference, sign="+"))
        if board.ceiling:
            cells = [f"{board.ceiling[name]:.3f}" if name in board.ceiling else "" for name in board.metrics]
            table.add_row("ceiling", "", "", *cells, "", style="dim")
        parts.append(table)
    parts += [f"Left out: version {version}: {why}" for version, why in result.skipped.items()]
    return Group(*parts, f"Page: {result.page}", *([pages.SYNTHETIC_NOTE] if result.synthetic else []))
