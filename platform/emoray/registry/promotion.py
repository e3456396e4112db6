"""Carrying out a decision: the alias, the history, and the way back.

The order of writes is the same for every move of the alias `champion`:

1. the whole decision, an artifact of the history (nothing follows from it yet);
2. the champion is read again: another one than was judged against means judging again;
3. the alias;
4. the entry of the history, whose number only one process can take;
5. tags, the copy in the version's run, the alias `challenger`: conveniences.

A command that is killed after 3 is completed by the next one, from the decision of 1 (`emoray.registry.champion`). A
process that set the alias and did not get the number was too late: it returns the alias to the champion of the history
and judges again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emoray.errors import EmorayError, RegistryError
from emoray.registry.champion import State, next_number, settle, tag_decision
from emoray.registry.gate import Decision
from emoray.registry.history import MOVES, Entry, EntryTakenError, Held, History, Kind, ever_champion, succession
from emoray.registry.tracking import Tracking
from emoray.registry.versions import CHAMPION, Version, by_version, load, own, set_alias, tag_version

#: What a command that used `crown_first` tells its user.
NOT_JUDGED = "It is champion without the gate: there was none to compare it with."


class ChampionChangedError(RegistryError):
    """Another version became champion since this one was judged."""

    kind = "champion_changed"


@dataclass(frozen=True)
class Back:
    """What a rollback did: the version that stepped down (None without one), the champion, and why others were not."""

    stepped_down: Version | None
    champion: Version
    skipped: tuple[str, ...]


def promote(
    tracking: Tracking,
    challenger: Version,
    decision: Decision,
    champion: Version | None,
    *,
    command: str = "emoray promote",
    facts: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    first: bool = False,
    dry_run: bool = False,
) -> Entry:
    """Record a decision and, if it passed, make the challenger champion.

    Args:
        champion: The champion that it was judged against; None if there was none.
        facts: What an entry of the history should have beside the figures: digests of policy and gate data ….
        policy: The limits that it was judged by.
        first: A champion whose alias is missing is no obstacle.
        dry_run: Record it, as the gate's data were looked at, and change nothing else.

    Raises:
        RegistryError: The challenger is of another registered model (`foreign_version`), the champion lost its alias
            (`champion_missing`), or is another one by now (`champion_changed`): judge again.
    """
    state = settle(tracking)
    if not first:
        state.expect_champion(tracking)
    kind: Kind = "dry run" if dry_run else "promoted" if decision.passed else "refused"
    if kind == "promoted" and champion is None:
        kind = "first"
    after = challenger if kind in ("promoted", "first") else state.champion
    judged = Held.of(own(tracking, challenger))
    about = {**(facts or {}), **decision.headline}
    entry = Entry(kind, judged, Held.of(champion), Held.of(after), command, facts=about)
    document = {
        "decided_at": entry.at,
        "model": challenger.name,
        "challenger": challenger.version,
        "previous_champion": champion.version if champion else None,
        **(facts or {}),
        "policy": dict(policy or {}),
        **decision.to_dict(),
    }
    return _carry_out(tracking, entry, document, challenger if after is challenger else None)


def crown_first(tracking: Tracking, version: Version, command: str) -> bool:
    """Make a version champion without the gate, where the model never had one. Returns whether it is champion now."""
    state = settle(tracking)
    if state.champion is not None or state.line:
        return state.champion is not None and state.champion.uri == version.uri
    held = Held.of(own(tracking, version))
    entry = Entry("first", held, None, held, command, facts={"judged": False})
    try:
        _carry_out(tracking, entry, {"model": version.name, "challenger": version.version}, version)
    except ChampionChangedError:
        return False
    return True


def rollback(tracking: Tracking, to: Version | None = None, *, command: str = "emoray rollback") -> Back:
    """Return the champion alias to an earlier champion that can be loaded.

    Args:
        to: That version; by default the latest before the present champion that is still there and loads.

    Raises:
        RegistryError: There is no champion (`no_champion`, `champion_missing`), no earlier one that can be used
            (`no_previous_champion`), or `to` was never champion (`never_champion`), is champion (`already_champion`) or
            does not load.
    """
    state = settle(tracking)
    present = state.champion
    if to is None:
        state.expect_champion(tracking)
        if present is None:
            what = f"model {tracking.model_name!r} has no champion yet"
            raise RegistryError(
                what, where=tracking.uri, remedy="emoray train, then emoray promote", kind="no_champion"
            )
        before, skipped = _previous(tracking, present, state.line)
    else:
        before, skipped = _former(tracking, own(tracking, to), state), ()
    held = Held.of(before)
    entry = Entry("rolled back", held, Held.of(present), held, command, facts={"skipped": len(skipped)})
    _carry_out(tracking, entry, {"model": before.name, "skipped": list(skipped)}, before)
    if present is not None:
        tag_version(tracking, present, {"emoray.rolled_back_at": entry.at, "emoray.rolled_back_to": before.version})
    return Back(present, before, skipped)


def _carry_out(tracking: Tracking, entry: Entry, document: Mapping[str, Any], crowned: Version | None) -> Entry:
    """The writes, in the order that the module names."""
    history = History(tracking)
    entry = history.write_record(entry, document)
    state = settle(tracking)
    if crowned is not None:
        expected = entry.previous
        if not (expected.is_version(state.champion) if expected else state.champion is None):
            raise _changed(tracking, expected, state.champion)
        set_alias(tracking, CHAMPION, crowned)
    entries = list(state.entries)
    while True:
        try:
            entry = history.append(entry, next_number(entries))
            break
        except EntryTakenError:
            entries = history.entries()
            done = next((one for one in entries if one.record == entry.record), None)
            if done is not None:  # another command found the alias and completed this one
                entry = done
                break
            line = succession(entries)
            if crowned is not None and line and line != list(state.line):
                if line[-1].is_version(crowned):
                    entry = next(one for one in reversed(entries) if one.kind in MOVES)
                    break
                winner = by_version(tracking, line[-1].version)
                set_alias(tracking, CHAMPION, winner)
                raise _changed(tracking, entry.previous, winner) from None
    tag_decision(tracking, entry, crowned)
    return entry


def _changed(tracking: Tracking, expected: Held | None, found: Version | None) -> ChampionChangedError:
    names = ["no version" if one is None else f"version {one.version}" for one in (expected, found)]
    return ChampionChangedError(
        f"{names[1]} of {tracking.model_name!r} became champion meanwhile; this was judged against {names[0]}",
        where=tracking.uri,
        remedy="Run the same command again: it judges against the new champion",
    )


def _previous(tracking: Tracking, present: Version, line: tuple[Held, ...]) -> tuple[Version, tuple[str, ...]]:
    skipped: list[str] = []
    for held in reversed(line[:-1]):
        if held.is_version(present):
            continue
        try:
            return _usable(tracking, held), tuple(skipped)
        except EmorayError as error:
            skipped.append(f"version {held.version}: {error.what}")
    tried = f" that can be used ({'; '.join(skipped)})" if skipped else ""
    raise RegistryError(
        f"version {present.version} of {tracking.model_name!r} has no champion before it{tried}",
        where=tracking.uri,
        remedy="Train and promote another version",
        kind="no_previous_champion",
    )


def _former(tracking: Tracking, version: Version, state: State) -> Version:
    if state.champion is not None and state.champion.uri == version.uri:
        what = f"version {version.version} of {version.name!r} is champion already"
        raise RegistryError(what, where=tracking.uri, remedy="See emoray history", kind="already_champion")
    former = [one for one in ever_champion(state.entries) if one.is_version(version)]
    if not former:
        raise RegistryError(
            f"version {version.version} of {version.name!r} was never champion",
            where=tracking.uri,
            remedy=f"Let the gate judge it: emoray promote --version {version.version}",
            kind="never_champion",
        )
    return _usable(tracking, former[-1])


def _usable(tracking: Tracking, held: Held) -> Version:
    """The version, if it is still there, the same, and loads."""
    version = by_version(tracking, held.version)
    if not held.is_version(version):
        raise RegistryError(f"another version has the number {held.version} today", kind="no_such_version")
    load(tracking, version)
    return version
