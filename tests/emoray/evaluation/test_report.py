import json
import re

import numpy as np
import polars as pl
import pytest
from error_kit import of_kind
from metrics_kit import ccc

from emoray.config import read_preset
from emoray.errors import InputError
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.groups import bucket_names, with_duration_bucket
from emoray.evaluation.metrics import DEFINITIONS
from emoray.evaluation.report import About, write_report
from emoray.evaluation.summary import check_predictions, summarise
from emoray.schema import DIMENSIONS

CONFIG = EvaluateConfig(**(read_preset("laptop")["evaluate"]))
CLASSES = ["anger", "neutral"]


def _predictions(split="test", speakers=8, per=25, seed=0, levels=("audio", "full")):
    rng = np.random.default_rng(seed)
    n = speakers * per
    truth = np.clip(0.5 + rng.normal(0, 0.15, (n, 3)), 0, 1)
    frames = []
    for level in levels:
        noise = {"audio": 0.15, "full": 0.05}[level]
        guess = truth + rng.normal(0, noise, (n, 3))
        columns = {
            "utterance_id": [f"{split}{i}" for i in range(n)],
            "speaker_id": [f"{split}-{i // per}" for i in range(n)],
            "gender": ["female" if i // per % 2 else "male" for i in range(n)],
            "split": [split] * n,
            "level": [level] * n,
            "duration_s": rng.uniform(1, 9, n),
            "scale_min": [1.0] * n,
            "scale_max": [7.0] * n,
            "emotion_true": [CLASSES[int(v > 0.5)] for v in truth[:, 0]],
            "emotion_pred": [CLASSES[int(v > 0.5)] for v in guess[:, 0]],
        }
        columns |= {f"{d}_true": truth[:, i] for i, d in enumerate(DIMENSIONS)}
        columns |= {f"{d}_pred": guess[:, i] for i, d in enumerate(DIMENSIONS)}
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    about = About(
        "Model <b>7</b>",
        "synthetic",
        facts={"run": "abc123"},
        protocol=["No voice is in two splits."],
        ceiling=dict.fromkeys(DIMENSIONS, 0.93),
        synthetic=True,
    )
    folder = tmp_path_factory.mktemp("report")
    return write_report(folder, _predictions(), CONFIG, about, dev=_predictions("dev", seed=1), classes=CLASSES)


def test_the_folder_holds_figures_numbers_and_predictions(written):
    tree = json.loads((written.folder / "metrics.json").read_text())
    frame = pl.read_parquet(written.folder / "predictions.parquet")
    full = frame.filter(pl.col("level") == "full")
    expected = ccc(full["valence_pred"].to_numpy(), full["valence_true"].to_numpy())
    assert tree["levels"]["full"]["metrics"]["ccc_valence"]["estimate"] == pytest.approx(expected)
    assert (tree["n_clips"], tree["n_speakers"], tree["unit"]) == (200, 8, "speaker")
    assert written.flat()["full/ccc_valence"] == pytest.approx(expected)
    assert {path.name for path in (written.folder / "figures").iterdir()} == {
        "calibration.png",
        "ccc.png",
        "confusion.png",
        "groups.png",
        "predicted.png",
    }


def test_the_page_stands_alone_and_says_what_it_must(written):
    page = written.page.read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "no evidence about how people" in page
    assert "No voice is in two splits." in page
    assert "abc123" in page
    assert "0.930" in page  # the ceiling
    for name in ("CCC", "UA", "WA"):
        assert DEFINITIONS[name].split(":")[0].split(",")[0] in page
    assert "Model &lt;b&gt;7&lt;/b&gt;" in page


def test_coverage_on_test_is_reported_near_its_nominal_level(written):
    for level in ("audio", "full"):
        for dimension in DIMENSIONS:
            assert 0.8 < written.metrics["levels"][level]["coverage"][dimension] <= 1


def test_groups_have_their_n_and_add_up(written):
    groups = written.metrics["levels"]["full"]["groups"]
    assert sum(row["n_clips"] for row in groups["gender"]) == 200
    assert [row["n_speakers"] for row in groups["gender"]] == [4, 4]
    assert [row["value"] for row in groups["duration"]] == ["< 2 s", "2–4 s", "4–8 s", "≥ 8 s"]
    assert len(groups["speaker_id"]) == 8


def test_duration_buckets_close_on_the_left():
    frame = with_duration_bucket(pl.DataFrame({"duration_s": [1.99, 2.0, 8.0, None]}), [2.0, 4.0, 8.0])
    assert frame["duration"].to_list() == ["< 2 s", "2–4 s", "≥ 8 s", None]
    assert bucket_names([2.0, 4.0, 8.0]) == ["< 2 s", "2–4 s", "4–8 s", "≥ 8 s"]


def test_classes_alone_make_a_report(tmp_path):
    frame = _predictions(levels=("audio",)).drop([f"{d}_{x}" for d in DIMENSIONS for x in ("true", "pred")])
    report = write_report(tmp_path, frame, CONFIG, About("EMO-DB", "emodb"), classes=CLASSES)
    assert set(report.metrics["levels"]["audio"]["metrics"]) == {"ua", "wa", "macro_f1"}
    assert "UA (= UAR)" in report.page.read_text()
    assert set(report.metrics["levels"]["audio"]["recalls"]) == set(CLASSES)


def test_probabilities_of_classes_are_judged_by_their_calibration(tmp_path):
    frame = _predictions(levels=("audio",))
    chances = [[0.7 if name == one else 0.3 / (len(CLASSES) - 1) for name in CLASSES] for one in frame["emotion_pred"]]
    frame = frame.with_columns(emotion_probabilities=pl.Series(chances))
    report = write_report(tmp_path, frame, CONFIG, About("EMO-DB", "emodb"), classes=CLASSES)
    found = report.metrics["levels"]["audio"]["metrics"]
    assert found["ece"]["estimate"] == pytest.approx(abs(found["wa"]["estimate"] - 0.7), abs=1e-6)
    assert found["ece"]["low"] <= found["ece"]["estimate"] <= found["ece"]["high"]
    assert (tmp_path / "figures" / "reliability.png").is_file()
    assert "expected calibration error" in report.page.read_text()


@pytest.mark.parametrize(
    ("change", "kind", "named"),
    [
        (lambda f: f.drop("level"), "missing_column", "level"),
        (lambda f: pl.concat([f, f.head(1)]), "duplicate_id", "2 times"),
        (lambda f: f.with_columns(valence_pred=pl.lit(float("nan"))), "non_finite_prediction", "valence_pred is nan"),
        (lambda f: f.head(0), "empty_table", None),
    ],
)
def test_broken_predictions_are_refused(change, kind, named):
    with pytest.raises(InputError, match=named, check=of_kind(kind)):
        check_predictions(change(_predictions()))


def test_without_any_label_there_is_nothing_to_report():
    frame = _predictions().with_columns(pl.lit(None, pl.Float64).alias(f"{d}_true") for d in DIMENSIONS)
    with pytest.raises(InputError, check=of_kind("no_labels")):
        summarise(frame, CONFIG)


def _of_protocol(seeds=(0, 1), folds=4):
    """What each seed predicts, with its own noise, and the fold of each speaker."""
    truth = _predictions(levels=("audio",))
    fold = pl.col("speaker_id").str.split("-").list.last().cast(pl.Int32) % folds
    noisy = [
        truth.with_columns(
            seed=pl.lit(seed), fold=fold, valence_pred=pl.col("valence_true") + pl.Series(_noise(truth.height, seed))
        )
        for seed in seeds
    ]
    return pl.concat(noisy)


def _noise(n, seed):
    return np.random.default_rng(100 + seed).normal(0, 0.05 * (1 + seed), n)


def test_several_seeds_give_their_mean_and_deviation_and_each_fold_its_own_row(tmp_path):
    frame = _of_protocol()
    report = write_report(tmp_path, frame, CONFIG, About("P", "c"), classes=CLASSES)
    level = report.metrics["levels"]["audio"]
    by_hand = []
    for seed in (0, 1):
        one = check_predictions(frame).filter(pl.col("seed") == seed)
        by_hand.append(ccc(one["valence_pred"].to_numpy(), one["valence_true"].to_numpy()))
    assert abs(by_hand[0] - by_hand[1]) > 0.01
    found = level["metrics"]["ccc_valence"]
    assert found["estimate"] == pytest.approx(np.mean(by_hand))
    assert found["seed_sd"] == pytest.approx(np.std(by_hand, ddof=1))
    assert [level["seeds"][seed]["ccc_valence"] for seed in ("0", "1")] == pytest.approx(by_hand)
    assert (report.metrics["n_clips"], report.metrics["seeds"], report.metrics["folds"]) == (200, [0, 1], [0, 1, 2, 3])
    assert [(row["value"], row["n_clips"], row["n_speakers"]) for row in level["folds"]] == [
        (str(fold), 50, 2) for fold in range(4)
    ]
    left_out = check_predictions(frame).filter(pl.col("fold") == 2)
    of_fold = [
        ccc(one["valence_pred"].to_numpy(), one["valence_true"].to_numpy())
        for one in left_out.partition_by("seed", maintain_order=True)
    ]
    assert level["folds"][2]["ccc_valence"]["estimate"] == pytest.approx(np.mean(of_fold))
    assert np.sum(level["confusion"]) == 400
    assert report.flat()["audio/ccc_valence_seed_sd"] == pytest.approx(found["seed_sd"])
    page = report.page.read_text()
    assert "Fold by fold" in page
    assert "4 folds · 2 seeds" in page


def test_seeds_on_different_clips_are_refused_and_one_models_folds_are_not_shown():
    frame = _of_protocol()
    with pytest.raises(InputError, check=of_kind("different_clips")):
        summarise(frame.filter((pl.col("seed") == 0) | (pl.col("fold") != 1)), CONFIG, classes=CLASSES)
    with pytest.raises(InputError, match="2 times", check=of_kind("duplicate_id")):
        summarise(pl.concat([frame, frame]), CONFIG)
    assert summarise(frame.filter(pl.col("seed") == 0).drop("seed"), CONFIG)["folds"] == []


def _baselines(fitted_to=80):
    """A baseline that is noisier than the model, and one that always says the same."""
    own = _predictions(levels=("audio",))
    noise = np.random.default_rng(5).normal(0, 0.3, (own.height, 3))
    noisy = own.with_columns(
        *(pl.col(f"{d}_true").add(pl.Series(noise[:, i])).alias(f"{d}_pred") for i, d in enumerate(DIMENSIONS)),
        emotion_pred=pl.Series([CLASSES[int(v > 0)] for v in noise[:, 0]]),
    )
    same = own.with_columns(*(pl.lit(0.5).alias(f"{d}_pred") for d in DIMENSIONS), emotion_pred=pl.lit("anger"))
    return pl.concat(
        frame.with_columns(baseline=pl.lit(name), fitted_to=pl.lit(fitted_to))
        for name, frame in (("statistics SVM", noisy), ("train mean", same))
    )


def test_baselines_stand_beside_the_model_with_paired_differences(tmp_path):
    baselines = _baselines().filter(pl.col("utterance_id") != "test3")
    report = write_report(
        tmp_path,
        _predictions(),
        CONFIG,
        About("m", "c"),
        classes=CLASSES,
        baselines=baselines.sample(fraction=1, shuffle=True, seed=0),
    )
    found = report.metrics["baselines"]
    assert list(found) == ["statistics SVM", "train mean"]
    assert found["train mean"]["metrics"]["ccc_mean"]["estimate"] == pytest.approx(0)
    assert found["train mean"]["metrics"]["ua"]["estimate"] == 0.5
    assert {one["n_clips"] for one in found.values()} == {199}
    own = report.metrics["levels"]["full"]["metrics"]["ccc_valence"]["estimate"]
    svm = found["statistics SVM"]
    assert svm["differences"]["ccc_valence"]["low"] > 0
    gain = svm["metrics"]["ccc_valence"]["estimate"] + svm["differences"]["ccc_valence"]["estimate"]
    assert gain == pytest.approx(own, abs=0.01)  # but for the clip that the baseline has not
    text = re.sub(r"<[^>]+>", " ", report.page.read_text())
    assert "model − baseline" in text
    assert "80 training clips" in text


def test_a_report_without_baselines_has_no_table_of_them(written):
    assert written.metrics["baselines"] == {}
    assert "Against the baselines" not in written.page.read_text()
