"""Five in a hundred clips are bad, in ten ways: the good ones are annotated, the bad ones quarantined by kind.

    python -m benchmarks.chaos.corrupt [--rows 2000]

Runs `emoray annotate` twice: with an error budget that the bad clips stay within, then with one that they exceed.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
from benchmarks.clips import BAD, CORPUS, make_bad_clips, make_clips, write_corpus

from emoray.config import load, to_yaml
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray_jobs.annotate.state import state as annotation_state
from emoray_jobs.config import Config
from emoray_jobs.pipeline import pending

FOLDER = Path(__file__).parents[1]
BAD_SHARE = 0.05


def command(work: Path, budget: float) -> tuple[int, str, Config]:
    """Run `emoray annotate` with an error budget; returns exit status, output, configuration."""
    overrides = (f"lake.root={work / 'lake'}", f"corpus.name={CORPUS}", f"annotate.max_error_fraction={budget}")
    config: Config = load(Config, overrides=overrides, environ={})
    file = work / "config.yaml"
    file.write_text(to_yaml(config))
    words = [sys.executable, "-m", "emoray_jobs", "annotate", "--config", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, config


def faults(config: Config, kinds: dict[str, str], rows: int) -> list[str]:
    """Differences from the expected outcome: every bad clip quarantined with its kind, every other one complete."""
    lake = Lake(config.lake)
    fingerprints = annotation_state(lake, config.corpus.name, config.annotate).fingerprints
    found = []
    ids = pl.Series(lake.utterances(CORPUS, ["utterance_id"])["utterance_id"]).sort()
    for stage in (*pipeline.AUDIO_STAGES, *pipeline.TEXT_STAGES):
        answers = pending.outcome_status(lake, stage, fingerprints[stage], ids)
        failed = {name: kind for name, kind in zip(ids, answers["failed"], strict=True) if kind}
        expected = kinds if stage == "decode" else dict.fromkeys(kinds, "missing_input")
        if not answers["answered"].all():
            found.append(f"{stage}: {answers['answered'].sum()} outcomes of {rows} rows")
        wrong = [name for name in failed.keys() | expected.keys() if failed.get(name) != expected.get(name)]
        found += [f"{stage}: {name} failed with {failed.get(name)}, not {expected.get(name)}" for name in wrong]
    return found


def main() -> int:
    """Make the clips, annotate them twice, compare; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=FOLDER.parent / ".bench" / "corrupt")
    options = parser.parse_args()
    shutil.rmtree(options.work / "lake", ignore_errors=True)
    bad = round(options.rows * BAD_SHARE)
    rows = make_clips(options.work / "audio", options.rows - bad)
    made = make_bad_clips(options.work / "bad", len(rows), bad)
    lake = Lake(load(Config, overrides=[f"lake.root={options.work / 'lake'}"], environ={}).lake)
    write_corpus(lake, rows + [row for row, _ in made.values()])
    kinds = {name: kind for name, (_, kind) in made.items()}
    under, said, config = command(options.work, 2 * BAD_SHARE)
    print(said)
    over, complaint, _ = command(options.work, BAD_SHARE / 2)
    print(complaint.strip().splitlines()[-1])
    found = faults(config, kinds, options.rows)
    if under != 0:
        found.append(f"exit status {under} although the errors are within the budget")
    if over != 1:
        found.append(f"exit status {over} although the errors exceed the budget")
    text = page(options.rows, kinds, found, (under, over))
    print(text)
    (FOLDER / "results").mkdir(exist_ok=True)
    (FOLDER / "results" / "corrupt.md").write_text(text, encoding="utf-8")
    return int(bool(found))


def page(rows: int, kinds: dict[str, str], found: list[str], statuses: tuple[int, int]) -> str:
    """The clips and their outcomes."""
    by_kind = ", ".join(f"{kind} {number}" for kind, number in sorted(collections.Counter(kinds.values()).items()))
    lines = [
        f"# {len(kinds)} bad clips of {len(BAD)} sorts among {rows:,}",
        "",
        f"Quarantined: {by_kind}. The other {rows - len(kinds):,} are complete in every stage.",
        "",
        f"Exit status {statuses[0]} within the error budget, {statuses[1]} beyond it.",
        "",
    ]
    if found:
        lines = ["# Bad clips: **unexpected outcomes**", "", *(f"- {fault}" for fault in found), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
