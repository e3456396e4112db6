"""Hours and prices of stages: by hand from measured and from shipped rates, and nothing where there is no rate."""

from __future__ import annotations

import pytest
from annotate_kit import config_for

from emoray.engines.usage import Tokens
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray.stages.transcribe.stage import build_transcribe
from emoray_jobs.cluster.hardware import ClusterResources, NodeResources
from emoray_jobs.pipeline import costs
from emoray_jobs.pipeline.costs import CostSums
from emoray_jobs.pipeline.rates import Amount, stage_cost, total_price

CPU = ClusterResources((NodeResources("cpu", None, 8.0, 0, 2**36),))
GPU = ClusterResources((NodeResources("cpu", "H100", 8.0, 2, 2**36),))
PRICES = (
    "plan.price_per_cpu_hour=0.5",
    "plan.price_per_gpu_hour=2",
    "plan.price_per_million_tokens_read=3",
    "plan.price_per_million_tokens_written=10",
)
#: 100 clips of 4 s: 1,000 hours have 900,000 of them.
SPEECH = {"corpus": (100, 400.0), "compute": (50, 200.0)}


@pytest.fixture
def place(tmp_path):
    def make(*overrides):
        config = config_for(tmp_path, *overrides)
        return config, Lake(config.lake)

    return make


def measured(lake, stage, kind, per_row_s, tokens=None):
    for audio_s in (200.0, 800.0):
        work = CostSums.of_batch(100, audio_s, per_row_s * 100, first=False, peak_bytes=1, tokens=tokens)
        costs.add_measurement(lake, stage, kind, work)


def whisper(config):
    stage = build_transcribe(config.annotate.transcribe)
    stage.options = lambda: {"kind": "whisper"}  # its weights are not here to be hashed
    return stage


def test_a_measured_stage_costs_its_work_on_its_device(place):
    config, lake = place(*PRICES)
    _, prosody, _ = pipeline.audio_stages(config.annotate)
    measured(lake, prosody, "cpu", 0.04)
    found = stage_cost(lake, prosody, GPU, config.plan, **SPEECH)
    assert (found.stage, found.model, found.device, found.basis) == ("prosody", "", "core", "measured: 200 rows")
    assert (found.thousand.hours, found.thousand.price) == pytest.approx((900_000 * 0.04 / 3600, 5.0))
    assert (found.corpus.hours, found.corpus.price) == pytest.approx((2 / 3600, 1 / 3600))


def test_a_published_rate_stands_in_with_its_source_and_only_on_its_device(place):
    config, lake = place(
        "annotate.transcribe.kind=whisper", "annotate.transcribe.whisper.model=openai/whisper-large-v3"
    )
    stage = whisper(config)
    found = stage_cost(lake, stage, GPU, config.plan, **SPEECH)
    assert found.device == "GPU"
    assert found.basis.startswith("published: Open ASR Leaderboard")
    assert found.thousand.hours == pytest.approx(1000 / 145.5)
    assert found.thousand.price is None
    on_cores = stage_cost(lake, stage, CPU, config.plan, **SPEECH)
    assert (on_cores.thousand, on_cores.basis) == (None, "unknown")
    measured(lake, stage, "H100", 0.01)
    own = stage_cost(lake, stage, GPU, config.plan, **SPEECH)
    assert own.basis == "measured: 200 rows"
    assert own.thousand.hours == pytest.approx(900_000 * 0.01 / 3600)


def test_a_model_without_a_rate_is_unknown_however_alike_it_is(place):
    config, lake = place(
        "annotate.transcribe.kind=whisper", "annotate.transcribe.whisper.model=openai/whisper-large-v4"
    )
    found = stage_cost(lake, whisper(config), GPU, config.plan, **SPEECH)
    assert (found.thousand, found.corpus, found.basis) == (None, None, "unknown")


def test_an_endpoint_costs_its_tokens(place):
    overrides = (
        "annotate.semantics.kind=text_llm",
        "annotate.semantics.engine.kind=endpoint",
        "annotate.semantics.text_llm.revision=r1",
    )
    config, lake = place(*overrides, *PRICES)
    _, semantics, *_ = pipeline.text_stages(config.annotate, None)
    measured(lake, semantics, "cpu", 0.1)
    found = stage_cost(lake, semantics, GPU, config.plan, **SPEECH)
    assert (found.device, found.model, found.corpus.price) == ("endpoint", "Qwen/Qwen2.5-1.5B-Instruct", None)
    # From now on tokens are counted: the rows before them do not thin them out.
    measured(lake, semantics, "cpu", 0.1, Tokens(read=40_000, written=10_000))
    found = stage_cost(lake, semantics, GPU, config.plan, **SPEECH)
    assert (found.thousand.tokens_read, found.thousand.tokens_written) == pytest.approx((360e6, 90e6))
    assert found.thousand.price == pytest.approx(360 * 3 + 90 * 10)
    assert found.corpus.price == pytest.approx(50 * (400 * 3 + 100 * 10) / 1e6)
    free, _ = place(*overrides)
    assert stage_cost(lake, semantics, GPU, free.plan, **SPEECH).thousand.price is None


def test_a_worker_of_several_gpus_costs_them_all_and_one_that_is_left_to_the_cores_none(place):
    config, lake = place("annotate.transcribe.kind=whisper", *PRICES)
    stage = whisper(config)
    stage.gpus = 2
    measured(lake, stage, "2xH100", 0.01)
    measured(lake, stage, "cpu", 1.0)
    assert stage_cost(lake, stage, GPU, config.plan, **SPEECH).corpus.price == pytest.approx(2 * 50 * 0.01 / 3600 * 2)
    left = stage_cost(lake, stage, GPU, config.plan, **SPEECH, on_cores={"transcribe"})
    assert (left.device, left.corpus.price) == ("core", pytest.approx(50 / 3600 * 0.5))


def test_a_stage_in_both_passes_costs_twice(place):
    config, lake = place(*PRICES)
    decode, *_ = pipeline.audio_stages(config.annotate)
    measured(lake, decode, "cpu", 0.04)
    assert stage_cost(lake, decode, CPU, config.plan, **SPEECH, times=2).thousand.price == pytest.approx(10.0)


def test_a_sum_says_what_it_lacks():
    def paid(price):
        return Amount(1.0, 0.0, 0.0, price)

    amounts = {"a": paid(2.0), "b": None, "c": paid(None), "d": paid(0.5)}
    assert total_price(amounts) == (2.5, ["b", "c"])
