"""`make bench`: what docs/performance.md asks for, each a ratio of things timed in turn in this run.

    python -m benchmarks [P1 … P6] [--peers] [--check] [--pairs 5] [--clips 600] [--out FOLDER]

P1 annotate against a bare loop · P2 transcription against peers · P3 run again, and after a kill · P4 audio against
librosa · P5 training from the lake against a loop in memory · P6 training at mixed lengths against Hugging Face's
Trainer. Without numbers P1, P3 and P5; with `--peers` all six: P2, P4 and P6 install their peers under .bench/.
`--check` fails where a median lies beyond its floor (benchmarks/floors.yaml). Run it on an idle machine: another
program on one of two cores halves the speed of the contender that happens to run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import yaml
from benchmarks.speed import p1_annotate, p2_asr, p3_resume, p4_audio, p5_training, p6_lengths
from benchmarks.speed.datasets import Scale
from benchmarks.speed.measure import Measurement

FOLDER = Path(__file__).parent
MODULES = {"P1": p1_annotate, "P2": p2_asr, "P3": p3_resume, "P4": p4_audio, "P5": p5_training, "P6": p6_lengths}
#: What `make bench` runs.
QUICK = ("P1", "P3", "P5")


def main() -> int:
    """Measure, print, write; with `--check`, compare with the floors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", metavar="P1 … P6", help=f"which (default: {' '.join(QUICK)})")
    parser.add_argument("--peers", action="store_true", help="all six, if no numbers are given")
    parser.add_argument("--check", action="store_true", help="fail beyond a floor")
    parser.add_argument("--pairs", type=int, default=5, help="counted rounds (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=600, help="clips that P1 annotates (default: %(default)s)")
    parser.add_argument("--asr-clips", type=int, default=120, help="clips that P2 transcribes (default: %(default)s)")
    parser.add_argument("--audio-clips", type=int, default=200, help="files that P4 decodes (default: %(default)s)")
    parser.add_argument("--f0-clips", type=int, default=15, help="of them, pitch measured (default: %(default)s)")
    parser.add_argument("--train-clips", type=int, default=512, help="clips of P5 and P6 (default: %(default)s)")
    parser.add_argument("--train-epochs", type=int, default=4, help="epochs of a run of theirs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FOLDER / "results", help="folder of the figures")
    options = parser.parse_args()
    unknown = set(options.numbers) - set(MODULES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    scale = Scale(
        pairs=options.pairs,
        clips=options.clips,
        asr_clips=options.asr_clips,
        audio_clips=options.audio_clips,
        f0_clips=options.f0_clips,
        train_clips=options.train_clips,
        train_epochs=options.train_epochs,
        cores=len(os.sched_getaffinity(0)),
        show=lambda line: print(f"  {line}", flush=True),
    )
    bounds = yaml.safe_load((FOLDER / "floors.yaml").read_text(encoding="utf-8"))
    options.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for number in options.numbers or (MODULES if options.peers else QUICK):
        print(number, flush=True)
        with tempfile.TemporaryDirectory(prefix="emoray-bench-") as folder:
            measurements = MODULES[number].measure(Path(folder), scale)
        for one in measurements:
            failed |= not _report(one, bounds)
        path = options.out / f"{number}.json"
        path.write_text(json.dumps([one.record() for one in measurements], indent=1) + "\n", encoding="utf-8")
    return int(options.check and failed)


def _report(one: Measurement, bounds: dict[str, dict[str, dict[str, float]]]) -> bool:
    """Print a measurement; whether it holds its floor (one without a floor always does)."""
    holds = True
    print(f"\n{one.name}: median {one.median:.3f} ({min(one.ratios):.3f} … {max(one.ratios):.3f}): {one.what}")
    for kind in ("goals", "floors"):
        bound = (bounds[kind] or {}).get(one.name, {})
        if bound:
            kept = bound.get("at_least", 0.0) <= one.median <= bound.get("at_most", float("inf"))
            holds = holds and (kept or kind == "goals")
            print(f"  {kind[:-1]}: {bound} {'holds' if kept else 'MISSED'}")
    for contender, seconds in one.seconds.items():
        times = ", ".join(f"{taken:.2f}" for taken in seconds)
        print(f"  {contender}: {times} s; peak memory {one.peak_bytes[contender] / 2**20:,.0f} MiB")
    if one.note:
        print(f"  {one.note}")
    return holds


if __name__ == "__main__":
    sys.exit(main())
