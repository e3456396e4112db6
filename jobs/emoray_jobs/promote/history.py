"""history: what was decided on the registered model's champions, and one decision in full (promote --explain N)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from emoray.errors import InputError
from emoray.lake.tables import Lake
from emoray.registry.gate import Decision
from emoray.registry.history import Entry, Held, History
from emoray.registry.tracking import connect
from emoray.registry.versions import CHAMPION, find_alias
from emoray_jobs.promote.judge import report
from emoray_jobs.tables import titled_table

if TYPE_CHECKING:
    from emoray_jobs.config import Config


_DIGESTS = ("corpus", "policy_digest", "data_digest")


@dataclass(frozen=True)
class HistoryResult:
    """All decisions on a registered model's champions, oldest first.

    Attributes:
        champion: The version with the alias now; None without one.
    """

    model_name: str
    champion: str | None
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Explained:
    """One decision, with the whole document that was recorded."""

    entry: Entry
    document: dict[str, Any]


def listing(config: Config) -> HistoryResult:
    """Read the history; changes nothing."""
    tracking = connect(config.tracking, Lake(config.lake))
    present = find_alias(tracking, CHAMPION)
    entries = tuple(History(tracking).entries())
    return HistoryResult(tracking.model_name, present.version if present else None, entries)


def run(config: Config, *, number: int) -> Explained:
    """Read one decision.

    Raises:
        InputError: There is no decision of this number (`no_such_decision`).
        RegistryError: It has no figures, or its record is gone (`no_decision_record`).
    """
    history = History(connect(config.tracking, Lake(config.lake)))
    entries = {entry.number: entry for entry in history.entries()}
    if number not in entries:
        remedy = f"There are 1 to {max(entries)}: emoray history" if entries else "Nothing was decided yet"
        raise InputError(f"there is no decision {number}", where="--explain", remedy=remedy, kind="no_such_decision")
    return Explained(entries[number], history.record(entries[number]))


def render(result: HistoryResult | Explained) -> RenderableType:
    """The history as a table, or one decision as it was printed."""
    if isinstance(result, Explained):
        entry, document = result.entry, result.document
        head = f"Decision {entry.number}, {entry.at}, by {entry.by}: {_what(entry)}."
        digests = [f"{name.replace('_', ' ')} {entry.facts[name]}" for name in _DIGESTS if name in entry.facts]
        policy = [f"{', '.join(digests)}."] if digests else []
        lines = report(Decision.from_dict(document)) if "checks" in document else ["Not judged by the gate."]
        return Text("\n".join([head, entry.command, *policy, *lines]))
    if not result.entries:
        return Text(f"Nothing was decided on {result.model_name} yet.")
    headings = ("#", "when (UTC)", "who", "what", "champion", "difference")
    table = titled_table(f"Champions of {result.model_name}; now {_version(result.champion)}", headings)
    for entry in result.entries:
        after = f"{_held(entry.previous)} → {_held(entry.champion)}"
        table.add_row(str(entry.number), entry.at[:19], entry.by, _what(entry), after, _difference(entry))
    return table


def _what(entry: Entry) -> str:
    failed = ", ".join(entry.facts.get("failed", ()))
    judged = "" if entry.facts.get("judged", True) else " (not judged)"
    return f"version {_held(entry.subject)} {entry.kind}{judged}" + (f": {failed}" if failed else "")


def _difference(entry: Entry) -> str:
    found = entry.facts.get("difference")
    if not found or found["low"] is None:
        return ""
    return f"{found['estimate']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _held(held: Held | None) -> str:
    return "none" if held is None else held.version


def _version(number: str | None) -> str:
    return "none" if number is None else f"version {number}"


def to_json(result: HistoryResult | Explained) -> str:
    """The same as JSON."""
    if isinstance(result, Explained):
        shown: dict[str, Any] = {**result.document, "entry": result.entry.to_json()}
    else:
        shown = {
            "model": result.model_name,
            "champion": result.champion,
            "history": [entry.to_json() for entry in result.entries],
        }
    return json.dumps(shown) + "\n"
