"""Carrying out a decision: aliases, the record, and the way back.

The registered model's tag `emoray.champions` has the succession of champions as a JSON list of version numbers, the
present one last. A promotion appends to it; a rollback removes the last one and returns the alias to the previous one.
Rolling back twice therefore goes back two champions; the first champion has no previous one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from emoray.errors import RegistryError
from emoray.registry.gate import Decision
from emoray.registry.tracking import Tracking
from emoray.registry.versions import (
    CHALLENGER,
    CHAMPION,
    Version,
    by_alias,
    by_version,
    drop_alias,
    find_alias,
    set_alias,
    tag_version,
)

HISTORY = "emoray.champions"

#: MLflow limits a tag's length: earlier champions are dropped.
_REMEMBERED = 100


def champions(tracking: Tracking) -> list[str]:
    """The succession of champions, oldest first; the last one is the present champion.

    An alias that was not set by emoray counts: its version is put at the end.
    """
    present = find_alias(tracking, CHAMPION)
    tags = tracking.client.get_registered_model(tracking.model_name).tags if present is not None else {}
    history = [str(version) for version in json.loads(tags.get(HISTORY, "[]"))]
    if present is not None and (not history or history[-1] != present.version):
        history.append(present.version)
    return history


def promote(tracking: Tracking, challenger: Version, decision: Decision) -> Version | None:
    """Record a decision and, if it passed, make the challenger champion.

    Returns:
        The previous champion, None if there was none.
    """
    previous = find_alias(tracking, CHAMPION)
    history = champions(tracking)
    record(tracking, challenger, decision, previous)
    if decision.passed:
        if previous is None or previous.version != challenger.version:
            _remember(tracking, [*history, challenger.version])
        set_alias(tracking, CHAMPION, challenger)
        at = find_alias(tracking, CHALLENGER)
        if at is not None and at.version == challenger.version:
            drop_alias(tracking, CHALLENGER)
    return previous


def record(tracking: Tracking, challenger: Version, decision: Decision, previous: Version | None) -> None:
    """Write a decision into the challenger's run (`promotion/…json`) and onto the version's tags."""
    at = datetime.now(UTC)
    document: dict[str, Any] = {
        "decided_at": at.isoformat(timespec="seconds"),
        "model": challenger.name,
        "challenger": challenger.version,
        "previous_champion": previous.version if previous else None,
        **decision.to_dict(),
    }
    name = f"promotion/decision-{at.strftime('%Y%m%dT%H%M%S%fZ')}.json"
    tracking.client.log_dict(challenger.run_id, document, name)
    tag_version(
        tracking,
        challenger,
        {
            "emoray.decision": "passed" if decision.passed else "refused",
            "emoray.decided_at": document["decided_at"],
            "emoray.previous_champion": document["previous_champion"] or "none",
            "emoray.decision_record": name,
        },
    )


def rollback(tracking: Tracking) -> tuple[Version, Version]:
    """Return the champion alias to the previous champion.

    Returns:
        The version that was champion and the one that is champion again.

    Raises:
        RegistryError: There is no champion (`no_champion`), no previous one (`no_previous_champion`), or it was deleted
            (`no_such_version`).
    """
    present = by_alias(tracking, CHAMPION)
    history = champions(tracking)
    if len(history) < 2:
        raise RegistryError(
            f"version {present.version} of {tracking.model_name!r} is the first champion: there is no previous one",
            where=tracking.uri,
            remedy="Train and promote another version",
            kind="no_previous_champion",
        )
    before = by_version(tracking, history[-2])
    set_alias(tracking, CHAMPION, before)
    _remember(tracking, history[:-1])
    at = datetime.now(UTC).isoformat(timespec="seconds")
    tag_version(tracking, present, {"emoray.rolled_back_at": at, "emoray.rolled_back_to": before.version})
    return present, before


def _remember(tracking: Tracking, history: list[str]) -> None:
    tracking.client.set_registered_model_tag(tracking.model_name, HISTORY, json.dumps(history[-_REMEMBERED:]))
