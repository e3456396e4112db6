"""Detection of planted emphasis, per word, with the synthesiser's word times and with aligned ones.

    python -m benchmarks.quality.emphasis [--lake FOLDER] [--corpus NAME] [--limit CLIPS]

Prints precision, recall and F1. Without `--lake` a small synthetic corpus is made in a temporary folder. The figures
hold for synthesised speech with emphasis planted by rule; they are no evidence about people.
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from emoray.config import merge, read_preset, validate
from emoray.corpora.synthetic.build import SyntheticConfig, build
from emoray.lake.tables import Lake, LakeConfig
from emoray.stages.base import Row
from emoray.stages.config import AnnotateConfig
from emoray.stages.emphasis import Emphasis
from emoray.stages.norms import Norms
from emoray.stages.pipeline import annotate_rows, audio_stages

SPLITS = ("train", "dev", "gate", "test")
SPEAKERS = {"train": 16, "dev": 4, "gate": 4, "test": 8}
CLIPS_PER_SPEAKER = 12


class EmphasisScore(NamedTuple):
    """Detection per word, over all words of all utterances."""

    precision: float
    recall: float
    f1: float
    words: int
    planted: int


def evaluate_emphasis(predicted: Sequence[Sequence[bool]], planted: Sequence[Sequence[bool]]) -> EmphasisScore:
    """Compare marks with planted ones, word by word.

    Raises:
        ValueError: The lengths differ.
    """
    found = np.array([mark for marks in predicted for mark in marks], bool)
    truth = np.array([mark for marks in planted for mark in marks], bool)
    if [len(marks) for marks in predicted] != [len(marks) for marks in planted]:
        raise ValueError("predicted and planted marks must pair up word by word")
    hits = int(np.sum(found & truth))
    precision = hits / max(1, int(found.sum()))
    recall = hits / max(1, int(truth.sum()))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return EmphasisScore(precision, recall, f1, len(truth), int(truth.sum()))


def main() -> None:
    """Print the table, then the same as JSON."""
    parser = argparse.ArgumentParser(description="Emphasis detection on planted emphasis")
    parser.add_argument("--lake", help="lake that holds a corpus with planted emphasis; a new one is made without it")
    parser.add_argument("--corpus", default="synthetic", help="name of the corpus in the lake")
    parser.add_argument("--limit", type=int, help="use only this many clips")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="emoray-emphasis-") as folder:
        lake = Lake(LakeConfig(root=arguments.lake or folder, storage_options={}))
        if arguments.lake is None:
            make_corpus(lake, arguments.corpus)
        table = lake.utterances(arguments.corpus)
        results = [measure(table.to_pylist()[: arguments.limit], times) for times in ("corpus", "aligned")]
    print("word times  split     words  planted       P       R      F1  clips  refused  ms/clip")
    for result in results:
        for split, score in result["scores"].items():
            print(
                f"{result['times']:<12}{split:<8}{score['words']:>7}{score['planted']:>9}{score['precision']:>8.3f}"
                f"{score['recall']:>8.3f}{score['f1']:>8.3f}{result['clips']:>7}{result['refused']:>9}{result['ms_per_clip']:>9.1f}"
            )
    print(json.dumps(results))


def make_corpus(lake: Lake, name: str) -> None:
    """A corpus of a few hundred clips, with the preset's plant."""
    corpus = SyntheticConfig.model_validate(
        merge(
            read_preset("laptop")["corpus"]["synthetic"],
            {"speakers": SPEAKERS, "utterances_per_speaker": dict.fromkeys(SPLITS, CLIPS_PER_SPEAKER)},
        )
    )
    build(name, corpus, lake, lambda *_: None)


def measure(rows: list[Row], times: str) -> dict[str, Any]:
    """Run the stages up to emphasis with word times from one source, and evaluate the marks.

    Args:
        rows: Utterances with planted emphasis in their words.
        times: `corpus` or `aligned`.
    """
    over = {"transcribe": {"kind": "reference", "reference": {"times": times}}}
    config = validate(AnnotateConfig, merge(read_preset("laptop")["annotate"], over))
    started = time.perf_counter()
    outcomes = annotate_rows(audio_stages(config), rows, config.guard)
    for row in rows:
        row.pop("waveform", None)
    stage = Emphasis(config.emphasis.prosody, Norms.fit(rows, config.norms))
    annotate_rows([stage], rows, config.guard)
    elapsed_s = time.perf_counter() - started
    errors = collections.Counter(outcome.error["type"] for outcome in outcomes["transcribe"] if outcome.error)
    marked = [row for row in rows if row.get("emphasis")]
    scores = {}
    for split in ("all", *SPLITS):
        chosen = [row for row in marked if split in ("all", row["split"])]
        if chosen:
            found = [[word["emphasised"] for word in row["emphasis"]["words"]] for row in chosen]
            planted = [[word["emphasised"] for word in row["words"]] for row in chosen]
            scores[split] = evaluate_emphasis(found, planted)._asdict()
    return {
        "times": times,
        "clips": len(rows),
        "refused": sum(errors.values()),
        "errors": dict(errors),
        "scores": scores,
        "ms_per_clip": 1000 * elapsed_s / len(rows),
    }


if __name__ == "__main__":
    main()
