"""promote: the gate between a challenger and the champion, and the way back."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
from rich.console import RenderableType
from rich.text import Text

from emoray.errors import ConfigError, RegistryError
from emoray.lake.tables import Lake
from emoray.registry import clean_process, gate, promotion, versions
from emoray.registry.config import GateConfig
from emoray.registry.gate import Decision
from emoray.registry.tracking import Tracking, connect
from emoray.registry.versions import CHALLENGER, CHAMPION, Version
from emoray.scoring.bundle import Bundle, open_bundle
from emoray.scoring.predictions import request_of
from emoray.scoring.scorer import load_bundle
from emoray.stages.conditions import Condition
from emoray_jobs.evaluate.predictions import find_version, predictions, utterance_rows
from emoray_jobs.progress import spinner
from emoray_jobs.train.local import torch_threads

if TYPE_CHECKING:
    from emoray_jobs.config import Config


#: In place of a condition's name: the first one of each version.
FIRST = "first"


@dataclass(frozen=True)
class PromoteResult:
    """What the gate decided.

    Attributes:
        version: The version that was judged.
        previous: The champion that it was compared with, None if there was none.
    """

    model_name: str
    version: str
    previous: str | None
    decision: Decision

    @property
    def passed(self) -> bool:
        """Whether the version is champion now."""
        return self.decision.passed


@dataclass(frozen=True)
class RollbackResult:
    """What a rollback did.

    Attributes:
        stepped_down: The version that was champion.
        champion: The version that is champion again.
    """

    model_name: str
    stepped_down: str
    champion: str


def run(config: Config, *, version: str | None = None) -> PromoteResult:
    """Judge a version on the corpus's gate split and make it champion if it passes. Decision and figures are recorded.

    Args:
        version: Number or alias; the challenger if left out.

    Raises:
        RegistryError: There is no such version (`no_challenger` …), or it is champion already (`already_champion`).
        InputError: The corpus has nothing to decide on.
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    challenger = find_version(tracking, version or CHALLENGER)
    champion = versions.find_alias(tracking, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        raise RegistryError(
            f"version {challenger.version} of {challenger.name!r} is champion already",
            where=tracking.uri,
            remedy="Train a challenger first: emoray train",
            kind="already_champion",
        )
    splits = lake.utterances(config.corpus.name, ["split"])["split"].unique().to_pylist()
    split, note = gate.gate_split(splits)
    with contextlib.ExitStack() as stack, spinner(f"judging version {challenger.version} on {split}"):
        bundles = [open_bundle(versions.fetch(tracking, one)) for one in (challenger, champion) if one is not None]
        judged = _conditions(bundles, config.promote)

        def predicted(bundle: Bundle) -> list[pl.DataFrame]:
            levels = {name: level_under(bundle, config.promote.level, name) for name in judged}
            frame = predictions(
                lake,
                bundle,
                [split],
                list(dict.fromkeys(levels.values())),
                corpus=config.corpus.name,
                annotate=config.annotate,
                cluster=config.cluster,
                launch=config.launch,
                stack=stack,
            )
            # A condition that counts twice is there twice.
            return [
                frame.filter(pl.col("level") == levels[name]).with_columns(pl.lit(name).alias("level"))
                for name in judged
            ]

        found = [predicted(bundle) for bundle in bundles]
        # What one version's audio rules refuse, or what enrols a speaker, is judged for neither.
        common = set.intersection(*(set(frame["utterance_id"]) for frames in found for frame in frames))
        new, *old = (
            [frame.filter(pl.col("utterance_id").is_in(common)).sort("utterance_id") for frame in frames]
            for frames in found
        )
        decision = gate.decide(
            new,
            old[0] if old else None,
            config.promote,
            latency=_latency(
                lake, config.corpus.name, tracking, challenger, new[0], config.promote, config.launch.threads
            ),
            clean=_clean(tracking, challenger, config.promote),
            note=note,
        )
    promotion.promote(tracking, challenger, decision)
    previous = None if champion is None else champion.version
    return PromoteResult(challenger.name, challenger.version, previous, decision)


def rollback(config: Config) -> RollbackResult:
    """Make the previous champion champion again.

    Raises:
        RegistryError: There is no champion (`no_champion`), or none before it (`no_previous_champion`).
    """
    tracking = connect(config.tracking, Lake(config.lake))
    present, before = promotion.rollback(tracking)
    return RollbackResult(present.name, present.version, before.version)


def _conditions(bundles: Sequence[Bundle], options: GateConfig) -> list[str]:
    """Names of the conditions to judge under: those that all versions know, each as often as it counts.

    A version of the sound alone knows every condition, unless it measures sound against speakers. Where two know none
    in common, each is judged under its first.

    Raises:
        ConfigError: A condition that counts is not known.
    """
    known = [
        [one.name for one in bundle.conditions]
        for bundle in bundles
        if bundle.granularities or bundle.config.encoder.speaker_norms
    ]
    common = [name for name in known[0] if all(name in others for others in known)] if known else []
    if not common:
        return [FIRST]
    unknown = sorted(set(options.conditions) - set(common))
    if unknown:
        raise ConfigError(
            f"the versions do not both know the condition {unknown[0]!r}",
            where="promote.conditions",
            remedy=f"They know {', '.join(common)}",
            kind="unknown_condition",
        )
    weights = options.conditions or dict.fromkeys(common, 1)
    return [name for name in common for _ in range(weights.get(name, 0))]


def level_under(bundle: Bundle, level: str, condition: str) -> str:
    """Name of a semantic level of a version under a condition."""
    level = level if bundle.granularities else "audio"
    return level if condition == FIRST else bundle.level_name(level, condition)


def _latency(
    lake: Lake,
    corpus: str,
    tracking: Tracking,
    version: Version,
    judged: pl.DataFrame,
    options: GateConfig,
    threads: int,
) -> gate.Latency:
    """Single clips from sound and transcript to the score, all stages in this process."""
    scorer = load_bundle(versions.fetch(tracking, version))
    ids = judged["utterance_id"].sort()
    chosen = ids.gather_every(max(1, len(ids) // options.latency_clips))[: options.latency_clips]
    rows = utterance_rows(lake, corpus, chosen.to_list(), scorer.bundle)
    with torch_threads(threads):
        return gate.measure_latency(scorer, [request_of(row, {}) for row in rows])


def _clean(tracking: Tracking, version: Version, options: GateConfig) -> clean_process.CleanCheck | None:
    if not options.clean_process:
        return None
    folder = versions.model_folder(tracking, version)
    return clean_process.check(folder, options.clean_process_timeout_s)


def render(result: PromoteResult | RollbackResult) -> RenderableType:
    """The decision as it is printed."""
    if isinstance(result, RollbackResult):
        return Text(
            f"Version {result.champion} of {result.model_name} is champion again;"
            f" version {result.stepped_down} stepped down."
        )
    decision = result.decision
    lines = [f"  {'yes' if check.passed else 'NO '}  {check.message}." for check in decision.checks]
    if decision.figures["note"]:
        lines.append(f"  note: {decision.figures['note']}.")
    if result.passed:
        before = "there was none" if result.previous is None else f"before: version {result.previous}"
        verdict = f"Promoted: version {result.version} of {result.model_name} is champion now ({before})."
    else:
        stays = "there is still no champion" if result.previous is None else f"version {result.previous} stays champion"
        verdict = f"Refused: version {result.version} of {result.model_name} does not pass; {stays}."
    return Text("\n".join([f"Decided on {decision.split}, {_under(decision)}:", *lines, verdict]))


def _under(decision: Decision) -> str:
    names = list(dict.fromkeys(decision.figures["levels"]))
    if names == [FIRST]:
        return "with all that each version reads"
    titles = "; ".join(Condition.named(name).title for name in names)
    return f"mean over the conditions: {titles}" if len(names) > 1 else titles
