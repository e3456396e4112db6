"""promote: the gate between a challenger and the champion, and the way back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from emoray.errors import RegistryError
from emoray.lake.tables import Lake
from emoray.registry import history, promotion, versions
from emoray.registry.champion import settle
from emoray.registry.gate import Decision
from emoray.registry.tracking import connect
from emoray.registry.versions import CHALLENGER, Version
from emoray_jobs.evaluate.predictions import find_version
from emoray_jobs.progress import spinner
from emoray_jobs.promote.judge import Judge, report

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: How often a challenger is judged again because another version became champion meanwhile.
MOST_TURNS = 3


@dataclass(frozen=True)
class PromoteResult:
    """What the gate decided.

    Attributes:
        previous: The champion that it was compared with, None if there was none.
        dry_run: Whether the alias stayed where it was in any case.
        number: Number of the decision in the history.
    """

    model_name: str
    version: str
    previous: str | None
    decision: Decision
    dry_run: bool
    number: int

    @property
    def passed(self) -> bool:
        """Whether the version passed the gate; it is champion now unless this was a dry run."""
        return self.decision.passed


@dataclass(frozen=True)
class RollbackResult:
    """What a rollback did.

    Attributes:
        stepped_down: The version that was champion; None where no version had the alias.
        skipped: Champions between them that cannot be used, and why.
    """

    model_name: str
    stepped_down: str | None
    champion: str
    skipped: tuple[str, ...] = ()


def run(config: Config, *, version: str | None = None, first: bool = False, dry_run: bool = False) -> PromoteResult:
    """Judge a version on the corpus's gate split and make it champion if it passes. Decision and figures are recorded.

    Raises:
        RegistryError: There is no such version (`no_challenger` …), it is of another registered model
            (`foreign_version`), it is champion already (`already_champion`), the champion lost its alias
            (`champion_missing`), or others kept becoming champion meanwhile (`champion_changed`).
        InputError: The corpus has nothing to decide on.
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    challenger = versions.own(tracking, find_version(tracking, version or CHALLENGER))
    judge = Judge(
        lake,
        tracking,
        config.promote,
        config.corpus.name,
        config.annotate,
        config.cluster,
        config.launch,
        threads=config.serve.scorer.threads,
        duration_edges_s=config.evaluate.duration_edges_s,
    )
    turn = 0
    while True:
        turn += 1
        state = settle(tracking)
        if not first:
            state.expect_champion(tracking)
        champion = state.champion
        if champion is not None and champion.uri == challenger.uri:
            raise RegistryError(
                f"version {challenger.version} of {challenger.name!r} is champion already",
                where=tracking.uri,
                remedy="Train a challenger first: emoray train",
                kind="already_champion",
            )
        attempt = 1 if champion is None else history.attempts(state.entries, challenger, champion)
        with spinner(f"judging version {challenger.version}"):
            decision, facts = judge.judge(challenger, champion, attempt)
        try:
            entry = promotion.promote(
                tracking,
                challenger,
                decision,
                champion,
                command=_command("promote", challenger, first=first, dry_run=dry_run),
                facts=facts,
                policy=config.promote.model_dump(mode="json"),
                first=first,
                dry_run=dry_run,
            )
        except promotion.ChampionChangedError:
            if turn == MOST_TURNS:
                raise
            continue
        previous = None if champion is None else champion.version
        return PromoteResult(challenger.name, challenger.version, previous, decision, dry_run, entry.number)


def rollback(config: Config, *, to: str | None = None) -> RollbackResult:
    """Make the previous champion that can still be loaded champion again.

    Raises:
        RegistryError: See `emoray.registry.promotion.rollback`.
    """
    tracking = connect(config.tracking, Lake(config.lake))
    version = None if to is None else find_version(tracking, to)
    command = "emoray rollback" + (f" --to {version.version}" if version else "")
    back = promotion.rollback(tracking, version, command=command)
    down = back.stepped_down.version if back.stepped_down else None
    return RollbackResult(back.champion.name, down, back.champion.version, back.skipped)


def _command(verb: str, version: Version, **switches: bool) -> str:
    """The command as the history keeps it: without overrides, which may hold secrets; the policy is recorded whole."""
    given = [f"--{name.replace('_', '-')}" for name, on in switches.items() if on]
    return " ".join(["emoray", verb, "--version", version.version, *given])


def render(result: PromoteResult | RollbackResult) -> RenderableType:
    """The decision as it is printed."""
    if isinstance(result, RollbackResult):
        skipped = "".join(f"\nSkipped {one}." for one in result.skipped)
        down = "" if result.stepped_down is None else f"; version {result.stepped_down} stepped down"
        return Text(f"Version {result.champion} of {result.model_name} is champion again{down}.{skipped}")
    return Text("\n".join([*report(result.decision), _verdict(result)]))


def _verdict(result: PromoteResult) -> str:
    name = f"version {result.version} of {result.model_name}"
    stays = "there is still no champion" if result.previous is None else f"version {result.previous} stays champion"
    if result.dry_run:
        return f"Dry run: {name} {'passes' if result.passed else 'does not pass'}; {stays}."
    if not result.passed:
        return f"Refused: {name} does not pass; {stays}."
    before = "there was none" if result.previous is None else f"before: version {result.previous}"
    return f"Promoted: {name} is champion now ({before})."


def to_json(result: PromoteResult | RollbackResult) -> str:
    """The result as JSON."""
    if isinstance(result, RollbackResult):
        return json.dumps(vars(result)) + "\n"
    shown = {name: value for name, value in vars(result).items() if name != "decision"}
    return json.dumps({**shown, **result.decision.to_dict()}, allow_nan=False) + "\n"
