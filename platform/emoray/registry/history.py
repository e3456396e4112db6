"""The history of a registered model's champions: every decision, append-only, in MLflow.

Each registered model has an experiment `<model> history` with one run. Entry 7 is the run's parameter `000007`, a line
of JSON; the whole decision is the run's artifact `decisions/….json`. MLflow never changes a parameter that was logged,
and its store refuses a second value for one key: nobody can rewrite an entry, and of two processes that append entry 7
one fails (docs/decisions/0034). Aliases, versions and tags may be deleted, this stays; a deleted run is restored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from emoray.errors import RegistryError
from emoray.registry import provenance
from emoray.registry.reach import is_lost, lost_error
from emoray.registry.tracking import Tracking
from emoray.registry.versions import Version

Kind = Literal["promoted", "refused", "dry run", "first", "rolled back", "found", "imported"]
#: Kinds after which another version is champion.
MOVES = ("promoted", "first", "rolled back", "found", "imported")
#: Kinds for which the gate looked at its data.
JUDGED = ("promoted", "refused", "dry run")
#: Longest entry: MLflow's limit of a parameter is 6000.
MOST_CHARACTERS = 5900
_RECORDS = "decisions"
_RUN_TAG = "emoray.history"
_NOTE = "Decisions on the champion of {model}, in order. Append-only: written by emoray promote, rollback and train."


@dataclass(frozen=True)
class Held:
    """A version as the history names it.

    Attributes:
        version: Its number.
        run_id: Its run. A registered model that was deleted and made again counts from 1 again; the run tells them
            apart. Empty where it was not recorded.
    """

    version: str
    run_id: str = ""

    @classmethod
    def of(cls, version: Version | None) -> Held | None:
        """How the history names a version."""
        return None if version is None else cls(version.version, version.run_id)

    def is_version(self, version: Version | Held | None) -> bool:
        """Whether it is this version."""
        if version is None or self.version != version.version:
            return False
        return not self.run_id or not version.run_id or self.run_id == version.run_id


@dataclass(frozen=True)
class Entry:
    """One decision.

    Attributes:
        kind: What happened. `found`: the alias had moved without emoray; `imported`: from before there was a history.
        subject: The version that was judged, or that became champion.
        previous: The champion before; None if there was none.
        champion: The champion after; None if there is none.
        at: When, UTC.
        by: Who, as user@host.
        command: The command, without its configuration.
        facts: Digests of policy and gate data, attempt, main figures; everything is in `record`.
        record: Artifact of the history's run with the whole decision.
        number: Its number, from 1; 0 before it is appended.
    """

    kind: Kind
    subject: Held | None
    previous: Held | None
    champion: Held | None
    command: str
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    by: str = field(default_factory=lambda: whoami())
    facts: Mapping[str, Any] = field(default_factory=dict)
    record: str | None = None
    number: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Entry:
        """From `to_json`."""
        held = {
            name: None if document[name] is None else Held(**document[name])
            for name in ("subject", "previous", "champion")
        }
        known = {one.name: document[one.name] for one in dataclasses.fields(cls) if one.name in document}
        return cls(**{**known, **held})


class EntryTakenError(RegistryError):
    """Another process appended an entry of this number first."""

    kind = "history_moved"


class History:
    """The history of the configured registered model; reading makes nothing."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._client = tracking.client

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        run = self._run()
        if run is None:
            return []
        numbers = sorted(key for key in run.data.params if key.isdigit())
        return [
            dataclasses.replace(Entry.from_json(json.loads(run.data.params[key])), number=int(key)) for key in numbers
        ]

    def write_record(self, entry: Entry, document: Mapping[str, Any]) -> Entry:
        """Keep the whole decision, before anything follows from it. Returns the entry that names it."""
        name = f"{_RECORDS}/{entry.at.replace(':', '').replace('+0000', 'Z')}-{uuid.uuid4().hex[:8]}.json"
        entry = dataclasses.replace(entry, record=name)
        self._client.log_dict(self._made().info.run_id, {**document, "entry": entry.to_json()}, name)
        return entry

    def append(self, entry: Entry, number: int) -> Entry:
        """Append an entry as the one of this number.

        Raises:
            EntryTakenError: There is one already.
        """
        run = self._made()
        value = _line(entry)
        if len(value) > MOST_CHARACTERS:  # MLflow would cut it
            value = _line(dataclasses.replace(entry, command=entry.command[:200], facts={"note": "see the record"}))
        try:
            self._client.log_param(run.info.run_id, f"{number:06d}", value)
        except MlflowException as error:
            if is_lost(error):
                raise
            there = self._client.get_run(run.info.run_id).data.params.get(f"{number:06d}")
            if there is None:
                raise
            if there != value:
                raise EntryTakenError(f"entry {number} of the history was written meanwhile") from None
        return dataclasses.replace(entry, number=number)

    def record(self, entry: Entry) -> dict[str, Any]:
        """The whole decision of an entry.

        Raises:
            RegistryError: It has none (`no_decision_record`), or the file is gone.
        """
        run = self._run()
        if entry.record is None or run is None:
            what = f"entry {entry.number} of the history ({entry.kind}) has no figures"
            raise RegistryError(what, remedy="See emoray history", kind="no_decision_record")
        return self._document(run, entry.record)

    def unfinished(self, entries: Sequence[Entry]) -> list[Entry]:
        """Moves that were recorded and never became entries: their commands were killed. Newest first."""
        run, known = self._run(), {one.record for one in entries}
        if run is None:
            return []
        paths = [one.path for one in self._client.list_artifacts(run.info.run_id, _RECORDS)]
        found = []
        for path in sorted(set(paths) - known, reverse=True):
            with contextlib.suppress(RegistryError):  # a file that cannot be read explains nothing
                found.append(Entry.from_json(self._document(run, path)["entry"]))
        return [one for one in found if one.kind in MOVES]

    def _document(self, run: Run, path: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="emoray-decision-") as work:
            try:
                local = self._client.download_artifacts(run.info.run_id, path, work)
                found: dict[str, Any] = json.loads(Path(local).read_text(encoding="utf-8"))
            except (MlflowException, OSError, ValueError) as error:
                if is_lost(error):
                    raise lost_error(self._tracking.uri, error) from error
                raise RegistryError(
                    f"the decision cannot be read: {error}",
                    where=f"{run.info.artifact_uri}/{path}",
                    remedy="Restore the artifact; emoray history still has its main figures",
                    kind="no_decision_record",
                ) from error
        return found

    def _run(self) -> Run | None:
        """The history's run, the oldest if two processes made one at once."""
        experiment = self._client.get_experiment_by_name(f"{self._tracking.model_name} history")
        if experiment is None:
            return None
        found = self._client.search_runs(
            [experiment.experiment_id], f"tags.`{_RUN_TAG}` = 'true'", ViewType.ALL, order_by=["start_time ASC"]
        )
        return min(found, key=lambda run: (run.info.start_time, run.info.run_id)) if found else None

    def _made(self) -> Run:
        """The history's run, made or restored where needed."""
        name = f"{self._tracking.model_name} history"
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            usual = self._client.get_experiment(self._tracking.experiment_id).artifact_location
            try:
                self._client.create_experiment(name, artifact_location=usual)
            except MlflowException:  # another process was faster, or it is a real failure
                if self._client.get_experiment_by_name(name) is None:
                    raise
            experiment = self._client.get_experiment_by_name(name)
            assert experiment is not None
        if experiment.lifecycle_stage != "active":
            self._client.restore_experiment(experiment.experiment_id)
        run = self._run()
        if run is None:
            tags = {_RUN_TAG: "true", MLFLOW_RUN_NOTE: _NOTE.format(model=self._tracking.model_name)}
            self._client.create_run(experiment.experiment_id, run_name="history", tags=provenance.tags() | tags)
            run = self._run()
            assert run is not None
        if run.info.lifecycle_stage != "active":
            self._client.restore_run(run.info.run_id)
        return run


def _line(entry: Entry) -> str:
    return json.dumps({**entry.to_json(), "number": 0}, sort_keys=True)


def succession(entries: Sequence[Entry]) -> list[Held]:
    """The champions that lead to the present one, oldest first: a rollback takes those after its champion away."""
    line: list[Held] = []
    for entry in entries:
        if entry.kind == "imported":
            line = [Held(name) for name in entry.facts["succession"]]
        elif entry.kind == "rolled back" and entry.champion is not None:
            places = [place for place, one in enumerate(line) if one.is_version(entry.champion)]
            line = line[: places[-1]] if places else line
            line.append(entry.champion)
        elif entry.kind in MOVES and entry.champion is not None:
            line.append(entry.champion)
    return line


def ever_champion(entries: Sequence[Entry]) -> list[Held]:
    """Every version that was champion at some time."""
    imported = [Held(name) for one in entries if one.kind == "imported" for name in one.facts["succession"]]
    return imported + [one.champion for one in entries if one.kind in MOVES and one.champion is not None]


def attempts(entries: Sequence[Entry], challenger: Version, champion: Version) -> int:
    """How many challengers the gate has judged against this champion, this one included; each counts once."""
    judged = {
        one.subject.version
        for one in entries
        if one.kind in JUDGED and one.subject and one.previous and one.previous.is_version(champion)
    }
    return len(judged | {challenger.version})


def whoami() -> str:
    """Who runs this process, as user@host."""
    return f"{provenance.user()}@{socket.gethostname()}"
