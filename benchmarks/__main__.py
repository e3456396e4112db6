"""`make bench`: the quick set of measurements, each a ratio of two things timed in turn in this run.

    python -m benchmarks [--check] [--pairs 3] [--clips 600] [--out FILE]

`--check` fails where a median lies under its floor (benchmarks/floors.yaml). Peers (librosa, Daft …) and the GPU shapes
are not here yet; the long table of quality is `make quality`, real voices are `python -m benchmarks.emodb`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from benchmarks.quality_annotate import annotate as bare_loop

from emoray.config import load
from emoray.lake import Lake
from emoray_jobs import annotate, corpus
from emoray_jobs.cluster import session
from emoray_jobs.config import Config

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Measurement:
    """A ratio over several pairs.

    Attributes:
        name: Key in floors.yaml.
        what: In words, with the unit.
        ratios: One per pair.
    """

    name: str
    what: str
    ratios: list[float]

    @property
    def median(self) -> float:
        """What is quoted and held against the floor."""
        return statistics.median(self.ratios)


def annotation(folder: Path, clips: int, pairs: int) -> list[Measurement]:
    """P1 and P3: annotate against a bare loop over the same stages and cores; a run of what is finished against it."""
    speakers = {"train": clips // 20, "dev": 2, "gate": 2, "test": 2}
    config = load(
        Config,
        overrides=(
            f"lake.root={folder / 'lake'}",
            f"corpus.synthetic.speakers={json.dumps(speakers)}",
            'corpus.synthetic.utterances_per_speaker={"train": 20, "dev": 6, "gate": 6, "test": 6}',
        ),
        environ={},
    )
    corpus.build(config)
    lake, cores = Lake(config.lake), len(os.sched_getaffinity(0))
    speed, again = [], []
    with session(config.cluster, config.lake):
        for pair in range(-1, pairs):  # pair −1 warms up both sides and is not counted
            _forget(lake)
            on_ray = _seconds(lambda: annotate.run(config))
            finished = _seconds(lambda: annotate.run(config))
            _forget(lake)
            bare = _seconds(lambda: bare_loop(config.lake, config.corpus.name, config.annotate, cores, _silent))
            print(
                f"pair {pair}: Ray {on_ray:.1f} s, bare loop {bare:.1f} s, finished run again {finished:.2f} s",
                flush=True,
            )
            if pair >= 0:
                speed.append(bare / on_ray)
                again.append(finished / on_ray)
    return [
        Measurement(
            "annotate_vs_bare_loop",
            f"{clips} clips, utterances/s of annotate over a bare loop's on {cores} cores",
            speed,
        ),
        Measurement("rerun_share", "time of a finished annotate run again, over the full run's", again),
    ]


def _forget(lake: Lake) -> None:
    for table in ("annotations", "norms"):
        shutil.rmtree(lake.path(table), ignore_errors=True)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _silent(_what: str, _done: int, _total: int) -> None:
    return None


def _verdict(median: float, floor: dict[str, float]) -> tuple[bool, str]:
    """Whether a median holds its floor (a measurement without one always does), and that in words."""
    if "at_most" in floor:
        holds, bound = median <= floor["at_most"], f"≤ {floor['at_most']}"
    elif "at_least" in floor:
        holds, bound = median >= floor["at_least"], f"≥ {floor['at_least']}"
    else:
        return True, "no floor yet"
    return holds, f"{bound} {'holds' if holds else 'MISSED'}"


def main() -> int:
    """Measure, print, write; with `--check`, compare with the floors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail under a floor")
    parser.add_argument("--pairs", type=int, default=3, help="counted pairs (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=600, help="clips to annotate (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FOLDER / "results" / "bench.json", help="where the figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="emoray-bench-") as folder:
        measurements = annotation(Path(folder), options.clips, options.pairs)
    floors = yaml.safe_load((FOLDER / "floors.yaml").read_text(encoding="utf-8"))["floors"]
    failed = False
    print(f"\n{'measurement':<26}{'median':>8}{'min':>8}{'max':>8}   floor")
    for one in measurements:
        holds, verdict = _verdict(one.median, floors.get(one.name, {}))
        failed |= not holds
        print(
            f"{one.name:<26}{one.median:>8.3f}{min(one.ratios):>8.3f}{max(one.ratios):>8.3f}   {verdict}   {one.what}"
        )
    options.out.parent.mkdir(exist_ok=True)
    figures = {one.name: {"what": one.what, "median": one.median, "ratios": one.ratios} for one in measurements}
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(options.check and failed)


if __name__ == "__main__":
    sys.exit(main())
