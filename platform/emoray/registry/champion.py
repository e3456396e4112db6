"""The champion of a registered model: where alias and history agree, and what a killed command left behind."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from emoray.errors import RegistryError
from emoray.registry.history import MOVES, Entry, EntryTakenError, Held, History, succession
from emoray.registry.tracking import Tracking
from emoray.registry.versions import (
    CHALLENGER,
    CHAMPION,
    Version,
    by_version,
    drop_alias,
    find_alias,
    set_alias,
    tag_version,
)

#: Two commands whose decisions are less apart may have met.
AT_ONCE_S = 60.0
#: Tag in which registries from before the history have their champions, as JSON.
HISTORY = "emoray.champions"


@dataclass(frozen=True)
class State:
    """The registered model, once alias and history agree.

    Attributes:
        champion: The version with the alias; None without one.
        line: Champions that led to it, oldest first; also without the alias.
    """

    champion: Version | None
    entries: tuple[Entry, ...]
    line: tuple[Held, ...]

    def expect_champion(self, tracking: Tracking) -> None:
        """Refuse a registry whose champion lost its alias.

        Raises:
            RegistryError: The history has a champion, and no version has the alias (`champion_missing`).
        """
        if self.champion is None and self.line:
            last = self.line[-1].version
            raise RegistryError(
                f"no version of {tracking.model_name!r} has the alias champion, but version {last} was champion:"
                " the alias or the version was deleted",
                where=tracking.uri,
                remedy=f"Restore it: emoray rollback --to {last} (or an earlier one, see emoray history). To let a"
                " version in without comparing it: emoray promote --first",
                kind="champion_missing",
            )


def champions(tracking: Tracking) -> list[str]:
    """Numbers of the champions that led to the present one, oldest first; changes nothing.

    An alias that was not set by emoray counts: its version is put at the end.
    """
    present, entries = find_alias(tracking, CHAMPION), History(tracking).entries()
    line = [one.version for one in succession(entries)] if entries else _from_before(tracking)
    if present is not None and (not line or line[-1] != present.version):
        line.append(present.version)
    return line


def settle(tracking: Tracking) -> State:
    """Make alias and history agree: complete what a killed command began, and note what other hands did."""
    history = History(tracking)
    while True:
        entries = history.entries()
        present = find_alias(tracking, CHAMPION)
        line = succession(entries)
        missing: Entry | None = None
        if not entries and (before := _from_before(tracking)):
            last = Held(before[-1])
            missing = Entry("imported", last, None, last, "", facts={"succession": before})
        elif present is not None and not (line and line[-1].is_version(present)):
            pending = [one for one in history.unfinished(entries) if one.champion and one.champion.is_version(present)]
            if line and _too_late(pending, entries, line[-1]):
                set_alias(tracking, CHAMPION, by_version(tracking, line[-1].version))
                continue
            missing = _explained(pending, present, line[-1] if line else None)
        if missing is None:
            _tidy(tracking, present, entries)
            return State(present, tuple(entries), tuple(line))
        try:
            history.append(missing, next_number(entries))
        except EntryTakenError:
            continue


def next_number(entries: Sequence[Entry]) -> int:
    """Number of the next entry."""
    return entries[-1].number + 1 if entries else 1


def tag_decision(tracking: Tracking, entry: Entry, crowned: Version | None) -> None:
    """Make the decision readable from the version's own pages."""
    if entry.kind in ("promoted", "refused", "first") and entry.subject is not None:
        subject = crowned or by_version(tracking, entry.subject.version)
        passed = "passed" if entry.facts.get("judged", True) else "not judged"
        document = History(tracking).record(entry)
        assert entry.record is not None
        name = entry.record.replace("decisions/", "promotion/decision-")
        tracking.client.log_dict(subject.run_id, document, name)
        tags = {
            "emoray.decision": "refused" if entry.kind == "refused" else passed,
            "emoray.decided_at": entry.at,
            "emoray.decided_by": entry.by,
            "emoray.previous_champion": entry.previous.version if entry.previous else "none",
            "emoray.decision_record": name,
            "emoray.history_record": entry.record,
        }
        tag_version(tracking, subject, tags)
    at = None if crowned is None else find_alias(tracking, CHALLENGER)
    if crowned is not None and at is not None and at.version == crowned.version:
        drop_alias(tracking, CHALLENGER)


def _from_before(tracking: Tracking) -> list[str]:
    """Champions of a registry from before there was a history."""
    found = tracking.client.search_registered_models(f"name = '{tracking.model_name}'")
    tags = found[0].tags if found else {}
    return [str(version) for version in json.loads(tags.get(HISTORY, "[]"))]


def _too_late(pending: Sequence[Entry], entries: Sequence[Entry], recorded: Held) -> bool:
    """Whether the alias was moved beside the last entry's command, by one that was killed before it could undo that."""
    if not pending or (pending[0].previous and pending[0].previous.is_version(recorded)):
        return False
    last = next(one for one in reversed(entries) if one.kind in MOVES)
    apart = datetime.fromisoformat(pending[0].at) - datetime.fromisoformat(last.at)
    return abs(apart.total_seconds()) < AT_ONCE_S


def _explained(pending: Sequence[Entry], present: Version, recorded: Held | None) -> Entry:
    """The entry for an alias that the history does not explain: a killed command's, or that other hands moved it."""
    for one in pending:
        if one.previous.is_version(recorded) if one.previous and recorded else one.previous == recorded:
            return one
    held = Held.of(present)
    return Entry("found", held, recorded, held, "", facts={"note": "the alias was not moved by emoray"})


def _tidy(tracking: Tracking, present: Version | None, entries: list[Entry]) -> None:
    """What a killed command may have left: the champion's tags, and its alias as challenger."""
    moves = [one for one in entries if one.kind in ("promoted", "first", "rolled back")]
    last = moves[-1] if moves else None
    if present is None or last is None or last.champion is None or not last.champion.is_version(present):
        return
    if last.kind != "rolled back" and present.tags.get("emoray.history_record") != last.record:
        with contextlib.suppress(RegistryError):  # the record is gone: tags are a convenience
            tag_decision(tracking, last, present)
    elif CHALLENGER in present.aliases:
        drop_alias(tracking, CHALLENGER)
