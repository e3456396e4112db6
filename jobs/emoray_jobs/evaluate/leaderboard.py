"""leaderboard: every registered version on the corpus's test splits, best first, as an HTML page.

The page rests on the reports that evaluate stored; versions that were never evaluated are evaluated first. The same
command makes the page again and scores nothing twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Group, RenderableType

from emoray.errors import EmorayError, InputError
from emoray.evaluation import pages
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.intervals import paired_difference
from emoray.evaluation.metrics import categorical, mean_ccc
from emoray.evaluation.summary import TITLES, headline_metrics, level_title
from emoray.lake.tables import Lake
from emoray.registry.tracking import connect
from emoray.registry.versions import CHALLENGER, CHAMPION, all_versions, find_alias
from emoray_jobs.config import options
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.evaluate import stored, tables
from emoray_jobs.evaluate.stored import EvaluateResult, SplitReport
from emoray_jobs.progress import track
from emoray_jobs.tables import titled_table

if TYPE_CHECKING:
    from emoray_jobs.config import Config


@dataclass(frozen=True)
class Standing:
    """A version's place on one split.

    Attributes:
        difference: Paired difference of the headline metric to the first, as JSON; None for the first, and where the
            two cannot be compared.
    """

    result: EvaluateResult
    report: SplitReport
    aliases: Sequence[str]
    difference: dict[str, Any] | None


@dataclass(frozen=True)
class SplitBoard:
    """The standings on one split.

    Attributes:
        headline: Metric that orders them.
        standings: Best first.
        best: The tree of the first version's metrics.json.
    """

    name: str
    headline: str
    metrics: list[str]
    standings: list[Standing]
    best: dict[str, Any]

    @property
    def ceiling(self) -> dict[str, float]:
        """Metric → the best value that any predictor can reach, where it is known."""
        return tables.ceilings(self.best)


@dataclass(frozen=True)
class LeaderboardResult:
    """A leaderboard.

    Attributes:
        skipped: Version → why it is not in the table.
        command: Command that makes the page again.
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
        InputError: No version is registered (`no_version`), or none can be evaluated on this corpus
            (`nothing_evaluated`).
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    registered = all_versions(tracking)
    if not registered:
        raise InputError(
            f"model {tracking.model_name!r} has no version yet",
            remedy="Train one first: emoray train",
            kind="no_version",
        )
    aliases: dict[str, list[str]] = defaultdict(list)  # a search for versions does not return their aliases
    for alias in (CHAMPION, CHALLENGER):
        if (holder := find_alias(tracking, alias)) is not None:
            aliases[holder.version].append(alias)
    skipped: dict[str, str] = {}
    evaluated: dict[str, list[EvaluateResult]] = defaultdict(list)
    with track("evaluating", "versions") as advance:
        for done, version in enumerate(registered, start=1):
            try:
                result = evaluate.run(config, model=version.version)
            except EmorayError as error:
                skipped[version.version] = str(error)
            else:
                for report in result.reports:
                    evaluated[report.split].append(result)
            advance(done, len(registered))
    if not evaluated:
        raise InputError(
            f"no version of {tracking.model_name!r} can be evaluated on corpus {config.corpus.name!r}: "
            + "; ".join(f"version {version}: {why}" for version, why in skipped.items()),
            kind="nothing_evaluated",
        )
    where = ("reports", "leaderboards", f"{tracking.model_name}-{config.corpus.name}.html")
    board = LeaderboardResult(
        title=f"{tracking.model_name} on {config.corpus.name}",
        corpus=config.corpus.name,
        splits=[_board(lake, split, found, aliases, config.evaluate) for split, found in sorted(evaluated.items())],
        skipped=skipped,
        synthetic=config.corpus.kind == "synthetic",
        command=f"emoray leaderboard{options(config)} --set corpus.name={config.corpus.name}",
        page=lake.uri(*where),
    )
    page = pages.render("leaderboard.html.j2", board=board, percent=f"{100 * config.evaluate.interval_level:g}")
    lake.write_bytes(page.encode(), *where)
    return board


def _board(
    lake: Lake,
    split: str,
    results: Sequence[EvaluateResult],
    aliases: Mapping[str, Sequence[str]],
    options: EvaluateConfig,
) -> SplitBoard:
    reports = [result.report(split) for result in results]
    headline = "ccc_mean" if any(report.metrics["dimensions"] for report in reports) else "ua"

    def rank(result: EvaluateResult) -> float:
        estimate = result.report(split).best.get(headline, {}).get("estimate")
        return -2.0 if estimate is None else float(estimate)

    ordered = sorted(results, key=rank, reverse=True)
    best = ordered[0].report(split).metrics
    classes: list[str] = next((report.metrics["classes"] for report in reports if report.metrics["classes"]), [])
    standings = [
        Standing(
            result,
            result.report(split),
            aliases.get(result.version, ()),
            _difference(lake, split, headline, ordered[0], result, options) if place else None,
        )
        for place, result in enumerate(ordered)
    ]
    names = [metric.name for metric in headline_metrics(best["dimensions"], classes)]
    return SplitBoard(split, headline, names, standings, best)


def _difference(
    lake: Lake, split: str, headline: str, first: EvaluateResult, other: EvaluateResult, options: EvaluateConfig
) -> dict[str, Any] | None:
    """Paired difference of a version to the first, on the clips that both scored; None if their outputs differ."""
    reports = other.report(split), first.report(split)
    outputs = [report.metrics["dimensions" if headline == "ccc_mean" else "classes"] for report in reports]
    if outputs[0] != outputs[1]:
        return None
    metric = mean_ccc(outputs[0]) if headline == "ccc_mean" else categorical(headline, outputs[0])
    mine, best = stored.on_common_clips(
        *(
            frame.filter(pl.col("level") == report.fullest)
            for frame, report in zip(stored.common_predictions(lake, (other, first), split), reports, strict=True)
        )
    )
    return paired_difference(metric, mine, best, level=options.interval_level).to_dict()


def render(result: LeaderboardResult) -> RenderableType:
    """The tables as they are printed."""
    parts: list[RenderableType] = []
    for board in result.splits:
        table = titled_table(
            f"{result.title}, {board.name}: {board.best['n_clips']:,} clips",
            ["version", "model", "input"],
            [*(TITLES[name] for name in board.metrics), "difference from the first"],
        )
        for row in board.standings:
            alias = f" ({', '.join(row.aliases)})" if row.aliases else ""
            cells = [tables.cell(row.report.best.get(name)) for name in board.metrics]
            level = level_title(row.report.fullest)
            cells.append(tables.cell(row.difference, sign="+"))
            table.add_row(f"{row.result.version}{alias}", row.result.kind, level, *cells)
        if board.ceiling:
            table.add_row("ceiling", "", "", *tables.ceiling_cells(board.ceiling, board.metrics), "", style="dim")
        parts.append(table)
    parts += [f"Left out: version {version}: {why}" for version, why in result.skipped.items()]
    return Group(*parts, f"Page: {result.page}", *([pages.SYNTHETIC_NOTE] if result.synthetic else []))
