"""The order of writes: two promotions at once, kills between any two writes, aliases and versions that are gone."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import scoring_kit as kit
from error_kit import of_kind

from emoray.config import read_preset
from emoray.errors import RegistryError
from emoray.lake.tables import Lake, LakeConfig
from emoray.registry import versions
from emoray.registry.candidate import Check
from emoray.registry.champion import champions, settle
from emoray.registry.config import TrackingConfig
from emoray.registry.gate import Decision
from emoray.registry.history import History, attempts
from emoray.registry.promotion import crown_first, promote, rollback
from emoray.registry.tracking import connect

PASSED = Decision(True, (Check("gain", True, "better"),), "gate", {"attempt": 1})
REFUSED = Decision(False, (Check("gain", False, "worse"),), "gate", {"attempt": 1})
WRITES = ("set_", "log_", "create_", "delete_", "restore_", "update_")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    lake = Lake(LakeConfig(root=str(tmp_path_factory.mktemp("registry") / "lake"), storage_options={}))
    return connect(TrackingConfig(**read_preset("laptop")["tracking"]), lake)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What a version's files are to whoever loads it."""
    folder = tmp_path_factory.mktemp("files")
    kit.make_bundle(folder / "artifacts" / "bundle", "acoustic")
    (folder / "MLmodel").write_text("flavors: {}\n")
    return folder


@pytest.fixture
def fresh(store, files):
    """Makes a registered model with four versions."""

    def make(count: int = 4):
        own = dataclasses.replace(store, model_name=f"model-{uuid.uuid4().hex[:8]}")
        own.client.create_registered_model(own.model_name)
        made = []
        for _ in range(count):
            run_id = own.start_run("trained")
            found = own.client.create_model_version(own.model_name, source=str(files), run_id=run_id)
            made.append(versions.by_version(own, found.version))
        return own, made

    return make


class Killed(BaseException):
    """SIGKILL: nothing catches it."""


class Client:
    """The store's client, with something before one of its writes."""

    def __init__(self, client, before) -> None:
        self._client, self._before = client, before

    def __getattr__(self, name):
        found = getattr(self._client, name)
        if not name.startswith(WRITES):
            return found

        def call(*arguments, **named):
            self._before(name)
            return found(*arguments, **named)

        return call


def killed_at(tracking, place):
    """The tracking store of a process that is killed before its write number `place`, from 0."""
    left = itertools.count(place, -1)

    def before(name):
        if next(left) == 0:
            raise Killed(name)

    return dataclasses.replace(tracking, client=Client(tracking.client, before))


def at_once(tracking, name, other):
    """The tracking store of a process in whose way another one gets, before its first write of this name."""
    todo = [other]

    def before(called):
        if called == name and todo:
            todo.pop()()

    return dataclasses.replace(tracking, client=Client(tracking.client, before))


def kinds(tracking):
    return [entry.kind for entry in History(tracking).entries()]


def champion(tracking):
    found = versions.find_alias(tracking, "champion")
    return found and found.version


# Each: what is there before, the command, the champion after it.
def _first(tracking, made):
    promote(tracking, made[0], PASSED, None)


def _over(tracking, made):
    promote(tracking, made[1], PASSED, made[0])


def _refused(tracking, made):
    promote(tracking, made[1], REFUSED, made[0])


def _trained(tracking, made):
    crown_first(tracking, made[0], "emoray train --champion")


def _back(tracking, made):
    rollback(tracking)


COMMANDS = {
    "first": ([], _first, ("1", None)),
    "trained": ([], _trained, ("1", None)),
    "over": ([_first], _over, ("2", "1")),
    "refused": ([_first], _refused, ("1", "1")),
    "rollback": ([_first, _over], _back, ("1", "2")),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_write_leaves_what_the_next_command_completes(fresh, name):
    before, command, (after, earlier) = COMMANDS[name]
    for place in itertools.count():
        tracking, made = fresh(2)
        for one in before:
            one(tracking, made)
        versions.set_alias(tracking, "challenger", made[1])
        try:
            command(killed_at(tracking, place), made)
        except Killed:
            pass
        else:
            break
        present = champion(tracking)
        assert present in (after, earlier)
        state = settle(tracking)
        # Alias and history agree, and the alias is where it was.
        assert champion(tracking) == present == (state.line[-1].version if state.line else None)
        assert kinds(tracking).count("found") == 0
        if present != after:
            command(tracking, made)
            assert champion(tracking) == after
        state = settle(tracking)
        assert champions(tracking) == [one.version for one in state.line]
        if name == "over":
            assert versions.by_version(tracking, "2").tags["emoray.decision"] == "passed"
            assert versions.find_alias(tracking, "challenger") is None
            assert rollback(tracking).champion.version == "1"
        if name == "rollback":
            with pytest.raises(RegistryError, check=of_kind("no_previous_champion")):
                rollback(tracking)
    assert place >= 4, "it was killed at each of its writes"


def test_of_two_promotions_at_once_one_wins(fresh):
    tracking, made = fresh()
    _first(tracking, made)

    def other():
        promote(tracking, made[2], PASSED, made[0])

    # The other one is through just before this one moves the alias.
    with pytest.raises(RegistryError, check=of_kind("champion_changed")):
        promote(at_once(tracking, "set_registered_model_alias", other), made[1], PASSED, made[0])
    assert champion(tracking) == made[2].version
    assert champions(tracking) == [made[0].version, made[2].version]
    assert kinds(tracking) == ["first", "promoted"]
    assert "emoray.decision" not in versions.by_version(tracking, made[1].version).tags


def test_the_alias_of_one_that_came_too_late_and_was_killed_is_taken_back(fresh):
    tracking, made = fresh()
    _first(tracking, made)

    def before(name):
        if name == "set_registered_model_alias" and champion(tracking) == made[0].version:
            promote(tracking, made[2], PASSED, made[0])
        elif name == "log_param":
            raise Killed

    late = dataclasses.replace(tracking, client=Client(tracking.client, before))
    with pytest.raises(Killed):
        promote(late, made[1], PASSED, made[0])
    assert champion(tracking) == made[1].version
    assert settle(tracking).champion.version == champion(tracking) == made[2].version
    assert kinds(tracking) == ["first", "promoted"]


def test_of_two_processes_at_the_same_time_exactly_one_wins(fresh):
    tracking, made = fresh()
    _first(tracking, made)
    present = made[0]
    for _ in range(4):
        others = [one for one in made if one.version != present.version][:2]
        with ThreadPoolExecutor(2) as pool:
            tries = [pool.submit(promote, tracking, one, PASSED, present) for one in others]
        failures = [one.exception() for one in tries if one.exception() is not None]
        assert [error.kind for error in failures] == ["champion_changed"]
        (won,) = [one.result().champion.version for one in tries if one.exception() is None]
        assert champion(tracking) == champions(tracking)[-1] == won
        present = versions.by_version(tracking, won)
    assert kinds(tracking) == ["first"] + 4 * ["promoted"]


def test_a_promotion_that_comes_between_alias_and_history_is_too_late(fresh):
    tracking, made = fresh()
    _first(tracking, made)

    def other():
        with pytest.raises(RegistryError, check=of_kind("champion_changed")):
            promote(tracking, made[2], PASSED, made[0])

    entry = promote(at_once(tracking, "log_param", other), made[1], PASSED, made[0])
    assert (champion(tracking), entry.champion.version, entry.number) == (made[1].version, made[1].version, 2)
    assert kinds(tracking) == ["first", "promoted"]


def test_a_refusal_meanwhile_is_no_obstacle(fresh):
    tracking, made = fresh()
    _first(tracking, made)
    other = at_once(tracking, "log_param", lambda: None)

    def refuse():
        # It read the state before the alias moved.
        History(tracking).append(dataclasses.replace(refusal, record=None), 2)

    refusal = promote(other, made[3], REFUSED, made[0])
    assert refusal.number == 2

    def refuse_again():
        History(tracking).append(dataclasses.replace(refusal, record=None), 3)

    assert promote(at_once(tracking, "log_param", refuse_again), made[1], PASSED, made[0]).number == 4
    assert champion(tracking) == made[1].version
    assert kinds(tracking) == ["first", "refused", "refused", "promoted"]


def test_a_champion_that_changed_while_judging_means_judging_again(fresh):
    tracking, made = fresh()
    _first(tracking, made)
    _over(tracking, made)
    with pytest.raises(RegistryError, match=made[1].version, check=of_kind("champion_changed")):
        promote(tracking, made[2], PASSED, made[0])
    assert champion(tracking) == made[1].version


def test_a_missing_alias_is_an_error_unless_it_is_said_that_this_is_a_first(fresh):
    tracking, made = fresh()
    _first(tracking, made)
    _over(tracking, made)
    tracking.client.delete_registered_model_alias(tracking.model_name, "champion")
    for command in (lambda: promote(tracking, made[2], PASSED, None), lambda: rollback(tracking)):
        with pytest.raises(RegistryError, match="rollback --to 2", check=of_kind("champion_missing")):
            command()
    assert not crown_first(tracking, made[2], "emoray train --champion")
    assert champion(tracking) is None
    assert rollback(tracking, made[1]).champion.version == made[1].version
    tracking.client.delete_registered_model_alias(tracking.model_name, "champion")
    promote(tracking, made[2], PASSED, None, first=True)
    assert champion(tracking) == made[2].version


def test_rollback_skips_versions_that_are_gone_and_says_so(fresh, tmp_path, files):
    tracking, made = fresh()
    moved = shutil.copytree(files, tmp_path / "moved")
    third = tracking.client.create_model_version(tracking.model_name, str(moved), run_id=made[2].run_id)
    made[2] = versions.by_version(tracking, third.version)
    for one, previous in zip(made, [None, *made], strict=False):
        promote(tracking, one, PASSED, previous)
    tracking.client.delete_model_version(tracking.model_name, made[1].version)
    shutil.rmtree(moved)
    back = rollback(tracking)
    assert back.champion.version == made[0].version
    assert [one.partition(":")[0] for one in back.skipped] == [f"version {one.version}" for one in (made[2], made[1])]
    with pytest.raises(RegistryError, check=of_kind("version_files_missing")):
        rollback(tracking, made[2])
    assert champion(tracking) == made[0].version


def test_the_champion_was_deleted_with_its_alias(fresh):
    tracking, made = fresh()
    _first(tracking, made)
    _over(tracking, made)
    tracking.client.delete_model_version(tracking.model_name, made[1].version)
    with pytest.raises(RegistryError, check=of_kind("champion_missing")):
        promote(tracking, made[2], PASSED, None)
    assert rollback(tracking, made[0]).champion.version == made[0].version


def test_what_was_never_champion_is_not_crowned_by_a_rollback(fresh):
    tracking, made = fresh()
    _first(tracking, made)
    _over(tracking, made)
    promote(tracking, made[2], REFUSED, made[1])
    with pytest.raises(RegistryError, check=of_kind("never_champion")):
        rollback(tracking, made[2])
    with pytest.raises(RegistryError, check=of_kind("already_champion")):
        rollback(tracking, made[1])
    # One that stepped down was champion.
    rollback(tracking)
    assert rollback(tracking, made[1]).champion.version == made[1].version


def test_a_registered_model_that_was_made_again_has_no_champions_of_the_old_one(fresh, files):
    tracking, made = fresh(2)
    _first(tracking, made)
    _over(tracking, made)
    tracking.client.delete_registered_model(tracking.model_name)
    tracking.client.create_registered_model(tracking.model_name)
    again = [
        versions.by_version(
            tracking,
            tracking.client.create_model_version(
                tracking.model_name, source=str(files), run_id=tracking.start_run("again")
            ).version,
        )
        for _ in range(2)
    ]
    assert [one.version for one in again] == [one.version for one in made]
    promote(tracking, again[1], PASSED, None, first=True)
    with pytest.raises(RegistryError, check=of_kind("no_previous_champion")):
        rollback(tracking)
    with pytest.raises(RegistryError, check=of_kind("never_champion")):
        rollback(tracking, again[0])


def test_versions_of_another_registered_model_get_no_alias_of_this_one(fresh):
    tracking, _ = fresh()
    _, others = fresh(1)
    for act in (
        lambda: promote(tracking, others[0], PASSED, None),
        lambda: crown_first(tracking, others[0], "emoray train --champion"),
        lambda: rollback(tracking, others[0]),
        lambda: versions.set_alias(tracking, "challenger", others[0]),
    ):
        with pytest.raises(RegistryError, match="copy_model_version", check=of_kind("foreign_version")):
            act()
    assert champion(tracking) is None
    # The remedy that the error names.
    copy = tracking.client.copy_model_version(others[0].uri, tracking.model_name)
    promote(tracking, versions.by_version(tracking, copy.version), PASSED, None)
    assert champion(tracking) == str(copy.version)


def test_the_history_survives_the_deletion_of_all_that_it_is_about(fresh):
    tracking, made = fresh()
    _first(tracking, made)
    promote(tracking, made[1], REFUSED, made[0], facts={"policy_digest": "p"}, policy={"min_gain": 0.1})
    experiment = tracking.client.get_experiment_by_name(f"{tracking.model_name} history")
    (run,) = tracking.client.search_runs([experiment.experiment_id])
    with pytest.raises(Exception, match="not allowed"):
        tracking.client.log_param(run.info.run_id, "000001", "rewritten")
    before = History(tracking).entries()
    tracking.client.delete_registered_model(tracking.model_name)
    tracking.client.delete_run(run.info.run_id)
    tracking.client.delete_experiment(experiment.experiment_id)
    entries = History(tracking).entries()
    assert entries == before
    assert [(one.number, one.kind, one.subject.version) for one in entries] == [(1, "first", "1"), (2, "refused", "2")]
    assert (entries[1].facts["policy_digest"], entries[1].facts["failed"]) == ("p", ["gain"])
    assert "@" in entries[1].by
    assert History(tracking).record(entries[1])["policy"] == {"min_gain": 0.1}
    with pytest.raises(RegistryError, check=of_kind("champion_missing")):
        promote(tracking, made[1], PASSED, None)


def test_challengers_of_one_champion_are_counted_each_once(fresh):
    tracking, made = fresh()
    _first(tracking, made)
    count = lambda one, champion: attempts(History(tracking).entries(), one, champion)  # noqa: E731
    assert count(made[1], made[0]) == 1
    promote(tracking, made[1], REFUSED, made[0])
    assert (count(made[1], made[0]), count(made[2], made[0])) == (1, 2)
    promote(tracking, made[2], PASSED, made[0], dry_run=True)
    assert champion(tracking) == made[0].version
    assert count(made[3], made[0]) == 3
    promote(tracking, made[3], PASSED, made[0])
    assert count(made[1], made[3]) == 1
