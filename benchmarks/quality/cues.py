"""What the cues' words and numbers still tell of the emotion in real voices: RAVDESS, 960 clips, 16 actors, 8 classes.

    python -m benchmarks.quality.cues [--path FOLDER] [--against speaker|corpus] [--enrol-clips N] [--words]

A linear probe (linear discriminant analysis with Ledoit and Wolf's shrinkage) learns the class from twelve actors and
names it for the four others, four times: from the text vector of the cues, from the standardised deviations, and from
both. Norms come from N clips of each actor without their labels, as annotate draws and fits them; these are left out
of the probe. UAR over the pooled predictions, intervals over actors. Beside it: how well each measure alone, and an
equal mean of level, pace and melody, tell high from low arousal (AUC); and with `--words` how often each phrase is said
per class.

The stages are annotate's own. What they found lies under `.bench/` by fingerprint, so a second run takes seconds.
RAVDESS is CC BY-NC-SA 4.0 (Livingstone and Russo, PLoS ONE 13(5), 2018): it stays outside the repository, and so does
whatever is trained on it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from benchmarks.quality.annotate import annotate, stage_values
from benchmarks.quality.rows import Reporter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emoray.config import merge, read_preset, validate
from emoray.evaluation.intervals import Interval, interval
from emoray.evaluation.metrics import categorical
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import empty_row, utterances_table
from emoray.stages.config import AnnotateConfig
from emoray.stages.deviations import deviation_vector, deviations
from emoray.stages.prosodic_features import MEASURES, measure_prosodic_features
from emoray.stages.semantics.cues import WORDS, grade

RESULTS = Path(__file__).parents[1] / "results"
CORPUS = "ravdess"
ACTORS_PER_FOLD = 4

#: Codes of file names (README of the corpus), in their order from 01.
CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")

HIGH_AROUSAL = ("happy", "angry", "fearful", "surprised")
LOW_AROUSAL = ("neutral", "calm", "sad")
#: What was once called activation.
EQUAL_MEAN = ("level_db", "rate_hz", "range_st")


@dataclass(frozen=True)
class Clips:
    """What annotate found in the clips.

    Attributes:
        frame: utterance_id, speaker_id, emotion_true, fold.
        text_NE: The cues' text vectors.
        away: Per clip its deviations.
    """

    frame: pl.DataFrame
    text_NE: np.ndarray
    away: list[dict[str, float]]

    @property
    def numbers(self) -> np.ndarray:
        """(N, M): deviations and what is there of them, as a model is given them."""
        return np.stack([deviation_vector(one) for one in self.away])


def utterances(folder: Path) -> list[dict[str, Any]]:
    """Rows of the utterances table, from the file names: modality, channel, emotion, intensity, statement, …, actor."""
    rows = []
    for path in sorted(folder.glob("Actor_*/*.flac")):
        codes = [int(code) for code in path.stem.split("-")]
        rows.append(
            empty_row()
            | {
                "utterance_id": path.stem,
                "corpus": CORPUS,
                "audio_uri": str(path.resolve()),
                "speaker_id": f"actor{codes[6]:02d}",
                "fold": (codes[6] - 1) // ACTORS_PER_FOLD,
                "language": "en",
                "emotion": CLASSES[codes[2] - 1],
                "transcript": STATEMENTS[codes[4] - 1],
            }
        )
    return rows


def annotated(lake_config: LakeConfig, folder: Path, against: str, enrol_clips: int, processes: int) -> Clips:
    """Annotate what is not annotated yet, and gather vectors and deviations."""
    lake = Lake(lake_config)
    lake.write_utterances(CORPUS, utterances_table(utterances(folder)))
    over = {
        "semantics": {"kind": "cues", "cues": {"against": against}},
        "embed": {"model": "minilm"},
        "norms": {"enrol_clips": enrol_clips},
    }
    config = validate(AnnotateConfig, merge(read_preset("laptop")["annotate"], over))
    prints, norms = annotate(lake_config, CORPUS, config, processes, Reporter())
    found = {stage: stage_values(lake, stage, prints[stage]) for stage in ("prosody", "transcribe", "embed_semantics")}
    table = lake.utterances(CORPUS, ["utterance_id", "speaker_id", "emotion", "fold"])
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    frame = frame.filter(pl.col("utterance_id").is_in(list(found["embed_semantics"])) & ~norms.enrolment_clips(frame))
    frame = frame.sort("utterance_id")
    away = []
    for name, speaker in frame.select("utterance_id", "speaker_id").iter_rows():
        measures = measure_prosodic_features(found["prosody"][name], found["transcribe"].get(name))
        away.append(deviations(measures, norms.for_speaker(speaker if against == "speaker" else None)))
    vectors = [found["embed_semantics"][name]["es"] for name in frame["utterance_id"]]
    return Clips(frame.rename({"emotion": "emotion_true"}), np.array(vectors), away)


def probe(features_NF: np.ndarray, frame: pl.DataFrame) -> pl.DataFrame:
    """Name each fold's classes by a linear probe that saw the other folds.

    Args:
        features_NF: What the probe sees.
        frame: emotion_true and fold of each clip.

    Returns:
        The frame with `emotion_pred`.
    """
    truth, fold = frame["emotion_true"].to_numpy(), frame["fold"].to_numpy()
    predicted = np.empty_like(truth)
    varied_NF = features_NF[:, features_NF.std(axis=0) > 0]
    for left_out in np.unique(fold):
        train = fold != left_out
        classes = np.unique(truth[train])
        linear = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage="auto", priors=np.full(len(classes), 1 / len(classes))
        )
        machine = make_pipeline(StandardScaler(), linear).fit(varied_NF[train], truth[train])
        predicted[~train] = machine.predict(varied_NF[~train])
    return frame.with_columns(emotion_pred=pl.Series(predicted))


def arousal_auc(clips: Clips) -> dict[str, float]:
    """Area under the ROC curve of each measure, and of the equal mean, for high against low arousal."""
    emotion = clips.frame["emotion_true"].to_numpy()
    judged = np.isin(emotion, HIGH_AROUSAL + LOW_AROUSAL)
    high = np.isin(emotion[judged], HIGH_AROUSAL)
    value = {name: np.array([one.get(name, 0.0) for one in clips.away])[judged] for name in MEASURES}
    mean = np.mean([value[name] for name in EQUAL_MEAN], axis=0)
    return {name: float(roc_auc_score(high, found)) for name, found in {**value, "equal mean": mean}.items()}


def phrase_shares(clips: Clips) -> dict[str, dict[str, float]]:
    """Phrase → class → share of the class's clips in which it is said; phrases that are never said are left out."""
    emotion = clips.frame["emotion_true"].to_list()
    said: dict[str, dict[str, int]] = {phrase: {} for phrases in WORDS.values() for phrase in phrases}
    for one, name in zip(clips.away, emotion, strict=True):
        for measure, value in one.items():
            phrase = WORDS[measure][grade(value)]
            said[phrase][name] = said[phrase].get(name, 0) + 1
    return {
        phrase: {name: counts.get(name, 0) / emotion.count(name) for name in CLASSES}
        for phrase, counts in said.items()
        if counts
    }


def page(
    uar: Mapping[str, Interval], auc: Mapping[str, float], shares: Mapping[str, Mapping[str, float]], head: str
) -> str:
    """What is printed."""
    lines = [head]
    for name, value in uar.items():
        lines.append(f"{name:18s} UAR {value.estimate:.3f}  95 % interval {value.low:.3f} to {value.high:.3f}")
    lines += ["", "high against low arousal, AUC (.5 is chance; below, the measure falls with arousal)"]
    lines += [f"{name:18s} {value:.3f}" for name, value in auc.items()]
    if shares:
        lines += ["", f"{'clips in which it is said, %':34s}" + "".join(f"{name:>10s}" for name in CLASSES)]
        lines += [
            f"{phrase:34s}" + "".join(f"{100 * of_class[name]:10.0f}" for name in CLASSES)
            for phrase, of_class in shares.items()
        ]
    return "\n".join(lines)


def main() -> None:
    """Annotate, probe and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="../shared/ravdess", help="folder that holds Actor_* (default: %(default)s)")
    parser.add_argument("--against", choices=("speaker", "corpus"), default="speaker", help="whose norms")
    preset = read_preset("laptop")["annotate"]["norms"]["enrol_clips"]
    parser.add_argument("--enrol-clips", type=int, default=preset, help="of each speaker (default: %(default)s)")
    parser.add_argument("--words", action="store_true", help="print how often each phrase is said")
    parser.add_argument("--lake", default=".bench/cues", help="where findings are kept (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="side by side (default: %(default)s)")
    options = parser.parse_args()
    folder = Path(options.path)
    if not any(folder.glob("Actor_*/*.flac")):
        sys.exit(f"no RAVDESS at {folder}: give --path (speech-only clips as 16 kHz FLAC, file names as published)")
    lake = LakeConfig(root=str(Path(options.lake).absolute()), storage_options={})
    clips = annotated(lake, folder, options.against, options.enrol_clips, options.processes)
    unweighted = categorical("ua", CLASSES)
    both_NF = np.hstack([clips.text_NE, clips.numbers])
    views = {"text": clips.text_NE, "numbers": clips.numbers, "text and numbers": both_NF}
    uar = {name: interval(unweighted, probe(features, clips.frame)) for name, features in views.items()}
    auc, shares = arousal_auc(clips), phrase_shares(clips)
    actors = clips.frame["speaker_id"].n_unique()
    norms = f"{options.against}, {options.enrol_clips} clips of each speaker"
    head = f"RAVDESS, {clips.frame.height} clips of {actors} actors, norms of the {norms}"
    print(page(uar, auc, shares if options.words else {}, head))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "cues.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    figures = {"uar": {name: value.to_dict() for name, value in uar.items()}, "auc": auc, "phrases": shares}
    path.write_text(json.dumps(before | {norms: figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
