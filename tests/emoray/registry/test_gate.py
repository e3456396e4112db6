import numpy as np
import polars as pl
import pytest
from error_kit import of_kind

from emoray.config import read_preset
from emoray.errors import InputError
from emoray.registry.clean_process import CleanCheck
from emoray.registry.config import GateConfig
from emoray.registry.gate import Latency, decide, gate_split
from emoray.schema import DIMENSIONS

CONFIG = GateConfig(**(read_preset("laptop")["promote"]))
FAST, CLEAN = Latency(20.0, 30.0, 20), CleanCheck(True, "scored", 12.0, (0.5, 0.5, 0.5))


def _predictions(noise, seed=0, speakers=16, per=12, noise_by_gender=None):
    truth = np.random.default_rng(99)
    n = speakers * per
    y = 0.5 + truth.normal(0, 0.15, (n, 3))
    gender = np.array(["female" if i // per % 2 else "male" for i in range(n)])
    size = np.array([(noise_by_gender or {}).get(g, noise) for g in gender])[:, None]
    p = y + np.random.default_rng(seed).normal(0, 1, (n, 3)) * size
    columns = {f"{d}_true": y[:, i] for i, d in enumerate(DIMENSIONS)}
    columns |= {f"{d}_pred": p[:, i] for i, d in enumerate(DIMENSIONS)}
    keys = {
        "utterance_id": [f"u{i}" for i in range(n)],
        "speaker_id": [f"s{i // per}" for i in range(n)],
        "gender": gender.tolist(),
        "split": ["gate"] * n,
        "level": ["full"] * n,
    }
    return pl.DataFrame(keys | columns)


def _failed(decision):
    return [check.name for check in decision.checks if not check.passed]


def _decide(challenger, champion, config=CONFIG, latency=FAST, clean=CLEAN, **more):
    """Frames of one condition, or one per condition."""
    challenger, champion = ([one] if isinstance(one, pl.DataFrame) else one for one in (challenger, champion))
    return decide(challenger, champion, config, latency=latency, clean=clean, **more)


def test_a_better_challenger_passes():
    decision = _decide(_predictions(0.05, 1), _predictions(0.12, 2))
    assert decision.passed
    assert decision.split == "gate"
    difference = decision.figures["difference"]
    assert difference["low"] > 0
    gain = decision.figures["challenger_ccc_mean"]["estimate"] - decision.figures["champion_ccc_mean"]["estimate"]
    assert difference["estimate"] == pytest.approx(gain)


def test_a_worse_challenger_and_one_that_is_no_different_are_refused():
    assert "gain" in _failed(_decide(_predictions(0.12, 1), _predictions(0.05, 2)))
    same = _decide(_predictions(0.08, 1), _predictions(0.08, 2))
    assert _failed(same) == ["gain"]
    assert "lower end" in same.reasons[0] or "less than the required gain" in same.reasons[0]


def test_equal_predictions_are_refused_by_default_and_pass_as_not_worse():
    frame = _predictions(0.08)
    assert not _decide(frame, frame).passed
    lenient = CONFIG.model_copy(update={"min_lower_bound": -0.01})
    assert _decide(frame, frame, lenient).passed


def test_the_gain_asked_for_must_be_reached():
    demanding = CONFIG.model_copy(update={"min_gain": 0.5})
    decision = _decide(_predictions(0.05, 1), _predictions(0.12, 2), demanding)
    assert _failed(decision) == ["gain"]
    assert "+0.5" in decision.reasons[0]


def test_a_group_that_gets_much_worse_stops_a_better_mean():
    challenger = _predictions(0, 1, noise_by_gender={"male": 0.01, "female": 0.16})
    champion = _predictions(0, 2, noise_by_gender={"male": 0.30, "female": 0.09})
    decision = _decide(challenger, champion)
    assert _failed(decision) == ["groups"]
    assert "gender female" in decision.reasons[0]


def test_small_groups_are_listed_but_not_judged():
    challenger = _predictions(0, 1, noise_by_gender={"male": 0.01, "female": 0.16})
    champion = _predictions(0, 2, noise_by_gender={"male": 0.30, "female": 0.09})
    decision = _decide(challenger, champion, CONFIG.model_copy(update={"min_group_clips": 1000}))
    assert decision.passed
    assert {entry["value"] for entry in decision.figures["groups"]} == {"female", "male"}


def test_latency_over_the_budget_stops():
    decision = _decide(_predictions(0.05), None, latency=Latency(900.0, 1600.0, 20))
    assert _failed(decision) == ["latency"]
    assert "1600 ms" in decision.reasons[0]


def test_a_version_that_does_not_load_elsewhere_stops():
    broken = CleanCheck(False, "ModuleNotFoundError: emoray", 3.0)
    decision = _decide(_predictions(0.05), None, clean=broken)
    assert _failed(decision) == ["clean_process"]
    assert "ModuleNotFoundError" in decision.reasons[0]


def test_the_first_champion_needs_only_what_needs_no_comparison():
    decision = _decide(_predictions(0.5), None)
    assert decision.passed
    assert "difference" not in decision.figures


def test_the_clean_check_cannot_be_forgotten():
    with pytest.raises(InputError, check=of_kind("clean_process_not_run")):
        _decide(_predictions(0.1), None, clean=None)
    assert _decide(_predictions(0.1), None, CONFIG.model_copy(update={"clean_process": False}), clean=None).passed


def test_several_levels_or_other_clips_are_refused():
    frame = _predictions(0.1)
    with pytest.raises(InputError, match="same levels", check=of_kind("different_levels")):
        _decide(frame, frame.with_columns(level=pl.lit("audio")))
    with pytest.raises(InputError, check=of_kind("different_clips")):
        _decide(frame, frame.head(20))


def test_dev_stands_in_for_gate_and_says_so():
    assert gate_split(["train", "dev", "gate", "test"]) == ("gate", None)
    split, note = gate_split(["train", "dev", "test"])
    assert split == "dev"
    assert "no gate split" in note
    with pytest.raises(InputError, check=of_kind("no_gate_split")):
        gate_split(["train", "test"])


def test_the_mean_over_conditions_decides():
    # Better under one condition, worse under the other: neither alone is what callers get.
    good, bad, champion = _predictions(0.04, 1), _predictions(0.2, 2), _predictions(0.1, 3)
    assert _decide([good, good], [champion, champion]).passed
    mixed = _decide([good, bad], [champion, champion])
    assert "gain" in _failed(mixed)
    alone = [_decide(one, champion).figures["difference"]["estimate"] for one in (good, bad)]
    assert mixed.figures["difference"]["estimate"] == pytest.approx(sum(alone) / 2)
    # A condition that counts three times is three frames.
    weighted = _decide([good, good, good, bad], [champion] * 4).figures["difference"]["estimate"]
    assert weighted == pytest.approx((3 * alone[0] + alone[1]) / 4)
