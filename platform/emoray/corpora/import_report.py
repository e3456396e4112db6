"""The report of an import: rows read, rows left out and why, rows with irregularities, and the published counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from emoray.lake.tables import Lake

#: How many of the counted rows are named.
NAMED = 3


@dataclass(frozen=True)
class Published:
    """What a corpus contains by its makers' account.

    Attributes:
        splits: Utterances per split of ours.
        speakers: Known speakers per split.
        emotions: Utterances per consensus class.
    """

    version: str
    utterances: int
    hours: float | None = None
    splits: dict[str, int] = field(default_factory=dict)
    speakers: dict[str, int] = field(default_factory=dict)
    emotions: dict[str, int] = field(default_factory=dict)


@dataclass
class ReasonCount:
    """A count, and the names of the first few rows."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, which: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(which)


@dataclass
class ImportReport:
    """The report of one import: read = utterances + left out.

    Attributes:
        read: Utterances that the source has.
        utterances: Those in the table.
        left_out: Reason → utterances that are not in the table.
        noted: Irregularity → utterances that are in the table nevertheless.
        published: The makers' counts, where the version is known.
    """

    source: str
    version: str | None = None
    read: int = 0
    utterances: int = 0
    left_out: dict[str, ReasonCount] = field(default_factory=dict)
    noted: dict[str, ReasonCount] = field(default_factory=dict)
    published: Published | None = None

    def leave_out(self, reason: str, which: str) -> None:
        """Count an utterance that is not in the table."""
        self.left_out.setdefault(reason, ReasonCount()).add(which)

    def note(self, what: str, which: str) -> None:
        """Count an irregularity of an utterance that is."""
        self.noted.setdefault(what, ReasonCount()).add(which)


def write(lake: Lake, name: str, report: ImportReport | None) -> None:
    """Store the report beside the table of corpus `name`; None removes the report of an older table."""
    if report is not None:
        lake.write_json(asdict(report), *_place(name))
    elif lake.exists(*_place(name)):
        lake.write_json(None, *_place(name))


def read(lake: Lake, name: str, utterances: int) -> ImportReport | None:
    """The report of a corpus's import; None if there is none, or it is of a table with another number of utterances."""
    if not lake.exists(*_place(name)):
        return None
    content: dict[str, Any] | None = lake.read_json(*_place(name))
    if content is None or content["utterances"] != utterances:
        return None
    for part in ("left_out", "noted"):
        content[part] = {reason: ReasonCount(**tally) for reason, tally in content[part].items()}
    content["published"] = content["published"] and Published(**content["published"])
    return ImportReport(**content)


def _place(name: str) -> tuple[str, str]:
    return "utterances_meta", f"{name}-import.json"
