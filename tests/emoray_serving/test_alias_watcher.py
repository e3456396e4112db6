"""The alias watch, with real threads and its own clock."""

import asyncio

import pytest

from emoray_serving.alias_watcher import AliasWatcher


class Registry:
    """An alias, and versions of which some do not load."""

    def __init__(self):
        self.alias: str | None = None
        self.broken: set[str] = set()
        self.loads: list[str] = []
        self.now = 0.0

    def lookup(self):
        if self.alias == "unreachable":
            raise ConnectionError("tracking store is away")
        return self.alias

    def load(self, version):
        self.loads.append(version)
        if version in self.broken:
            raise ValueError(f"version {version} has no weights")
        return f"scorer {version}"

    def watch(self):
        return AliasWatcher(
            self.lookup, self.load, poll_s=2, keep_previous_s=15, retry_max_s=60, clock=lambda: self.now
        )


@pytest.fixture
def registry():
    return Registry()


def test_takes_up_what_the_alias_names_and_keeps_the_old_beside_it(registry):
    async def scenario():
        watch = registry.watch()
        assert not await watch.check()
        assert watch.get(None) is None
        registry.alias = "1"
        assert await watch.check()
        registry.alias = "2"
        assert await watch.check()
        assert watch.get(None).value == "scorer 2"
        assert watch.get("1").value == "scorer 1"
        assert watch.get("0").value == "scorer 2", "a version that is gone is answered by the current one"
        registry.now = 15
        assert not await watch.check()
        assert watch.get("1").value == "scorer 2"
        assert registry.loads == ["1", "2"]

    asyncio.run(scenario())


def test_stays_with_the_old_when_the_new_does_not_load_and_tries_again_later(registry):
    async def scenario():
        watch = registry.watch()
        registry.alias = "1"
        await watch.check()
        registry.alias, registry.broken = "2", {"2"}
        assert not await watch.check()
        assert watch.current.version == "1"
        assert (watch.failure.version, watch.failure.attempts) == ("2", 1)
        assert "no weights" in watch.failure.message
        registry.now = 3.9  # 2 s · 2¹ after the first attempt
        await watch.check()
        assert registry.loads == ["1", "2"]
        registry.now = 4
        await watch.check()
        assert watch.failure.attempts == 2
        registry.broken = set()
        registry.now = 12
        assert await watch.check()
        assert (watch.current.version, watch.failure) == ("2", None)

    asyncio.run(scenario())


def test_another_version_does_not_wait_for_the_pause_of_a_broken_one(registry):
    async def scenario():
        watch = registry.watch()
        registry.alias, registry.broken = "2", {"2"}
        await watch.check()
        registry.alias = "3"
        assert await watch.check()
        assert watch.failure is None

    asyncio.run(scenario())


@pytest.mark.parametrize("gone", [None, "unreachable"])
def test_an_alias_that_names_nothing_takes_nothing_away(registry, gone):
    async def scenario():
        watch = registry.watch()
        registry.alias = "1"
        await watch.check()
        registry.alias = gone
        assert not await watch.check()
        assert watch.get(None).value == "scorer 1"
        assert (watch.failure is not None) == (gone == "unreachable")

    asyncio.run(scenario())


def test_the_swap_never_leaves_a_moment_without_a_version(registry):
    async def scenario():
        watch = registry.watch()
        registry.alias = "1"
        await watch.check()
        seen = set()

        def load_slowly(version):
            loop.call_soon_threadsafe(started.set)
            assert asyncio.run_coroutine_threadsafe(go.wait(), loop).result(5)
            return f"scorer {version}"

        loop, started, go = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        watch._load = load_slowly
        registry.alias = "2"
        swap = asyncio.create_task(watch.check())
        await started.wait()
        seen.add(watch.get(None).value)  # requests go on while the new version loads
        go.set()
        assert await swap
        seen.add(watch.get(None).value)
        assert seen == {"scorer 1", "scorer 2"}

    asyncio.run(scenario())
