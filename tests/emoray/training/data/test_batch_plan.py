from __future__ import annotations

import numpy as np
import pytest
from error_kit import of_kind
from hypothesis import given, settings
from hypothesis import strategies as st

from emoray.errors import TrainingError
from emoray.training.config import PlanConfig
from emoray.training.data.batch_plan import PLAN, make_plan, worker_slice

DURATIONS = np.random.default_rng(0).uniform(0.5, 20, 97)
IDS = [f"u{i:03d}" for i in range(97)]


def plan(ids=IDS, durations=DURATIONS, *, size=16, seconds=120.0, buckets=4, epochs=2, seed=3, crop_s=12.0):
    config = PlanConfig(batch_size=size, batch_seconds=seconds, buckets=buckets)
    return make_plan(ids, durations, config, epochs=epochs, seed=seed, crop_s=crop_s)


@settings(max_examples=40, deadline=None)
@given(
    durations=st.lists(st.floats(0.1, 30), min_size=1, max_size=60),
    size=st.integers(1, 20),
    seconds=st.floats(5, 200),
    buckets=st.integers(1, 6),
)
def test_every_utterance_once_per_epoch_within_the_caps(durations, size, seconds, buckets):
    ids = [f"u{i}" for i in range(len(durations))]
    table = plan(ids, durations, size=size, seconds=seconds, buckets=buckets)
    assert table.schema == PLAN
    heard = {name: min(s, 12.0) for name, s in zip(ids, durations, strict=True)}
    for epoch in (0, 1):
        rows = [row for row in table.to_pylist() if row["epoch"] == epoch]
        assert sorted(name for row in rows for name in row["utterance_ids"]) == sorted(ids)
        for row in rows:
            clips = row["utterance_ids"]
            assert len(clips) <= size
            assert len(clips) == 1 or len(clips) * max(heard[name] for name in clips) <= seconds + 1e-6
            assert row["seconds"] == pytest.approx(sum(heard[name] for name in clips))
    assert table["step"].to_pylist() == list(range(table.num_rows))


def test_the_plan_follows_from_seed_and_clips_alone():
    order = np.random.default_rng(1).permutation(97)
    again = plan([IDS[i] for i in order], DURATIONS[order])
    assert again.equals(plan())
    assert not plan(seed=4).equals(plan())
    first, second = (
        plan().filter(plan()["epoch"].to_numpy() == epoch)["utterance_ids"].to_pylist() for epoch in (0, 1)
    )
    assert first != second


def test_batches_hold_clips_of_similar_length_and_none_is_a_small_remainder():
    table = plan(size=10, seconds=1e9, buckets=4)
    duration = dict(zip(IDS, np.minimum(DURATIONS, 12), strict=True))
    spread = [np.ptp([duration[name] for name in ids]) for ids in table["utterance_ids"].to_pylist()]
    assert max(spread) < 0.5 * np.ptp(list(duration.values()))
    assert min(map(len, table["utterance_ids"].to_pylist())) >= 8


@given(clips=st.integers(0, 40), world=st.integers(1, 9))
def test_workers_share_a_batch_without_gap_or_overlap(clips, world):
    ids = [str(i) for i in range(clips)]
    shares = [worker_slice(ids, rank, world) for rank in range(world)]
    assert [name for _, part in shares for name in part] == ids
    assert all(part == ids[start : start + len(part)] for start, part in shares)
    assert max(len(part) for _, part in shares) - min(len(part) for _, part in shares) <= 1


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(TrainingError, check=of_kind("empty_split")):
        plan([], [])
