"""P3: the time of another annotate run, after a finished and after a killed one, compared with a full run.

Start-up is not in these times: the clock starts when a process reports that it is ready, with Ray running. Every run
except the one over finished work has its own process and its own Ray.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed.datasets import Scale, synthetic
from benchmarks.speed.measure import EMORAY, Contender, Measurement

from emoray.config import load
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray_jobs.config import Config

#: Share of the full run's time after which driver and Ray are killed.
KILL_AT = 0.5


def measure(folder: Path, scale: Scale) -> list[Measurement]:
    """Each round: a full run, one over its finished work, one killed half-way, one that completes it."""
    # Small buffers, so that the kill does not lose half of this small corpus.
    overrides = [*synthetic(folder / "again", scale.clips // 2), "annotate.flush_rows=32", "annotate.flush_s=2"]
    config = load(Config, overrides=overrides, environ={})
    lake, stages = Lake(config.lake), list(pipeline.fingerprints(config.annotate, "any norms"))
    task = {"what": "annotate", "overrides": overrides}
    seconds: dict[str, list[float]] = {"full": [], "finished": [], "killed": [], "after the kill": []}
    peaks = dict.fromkeys(seconds, 0)
    clips, repeated = 0, []
    for number in range(scale.pairs + 1):
        with Contender("full", EMORAY, task, folder) as contender:
            whole = contender.run()
            again = contender.run(reset=False)
        with Contender("killed", EMORAY, task, folder) as victim:
            cut = victim.kill_after(KILL_AT * whole.seconds)
        with Contender("after the kill", EMORAY, task, folder) as successor:
            rest = successor.run(reset=False)
        clips = whole.results["complete"]
        if rest.results["complete"] != clips:
            raise RuntimeError(f"after a kill {rest.results['complete']} of {clips} clips were completed")
        if not number:
            continue  # warms up the disk's cache
        repeated.append(_rows(lake, stages) - clips * len(stages))
        for name, reading in zip(seconds, (whole, again, cut, rest), strict=True):
            seconds[name].append(reading.seconds)
            peaks[name] = max(peaks[name], reading.peak_bytes)
        scale.show(f"round {number}: " + ", ".join(f"{name} {taken[-1]:.2f} s" for name, taken in seconds.items()))
    rounds = list(zip(*seconds.values(), strict=True))
    return [
        Measurement(
            "rerun_share",
            f"time of a run over {clips} finished clips, over the full run's",
            [again / whole for whole, again, _, _ in rounds],
            {name: seconds[name] for name in ("full", "finished")},
            {name: peaks[name] for name in ("full", "finished")},
        ),
        Measurement(
            "kill_share",
            f"time of a run killed half-way and of the next, over the full run's, {clips} clips",
            [(cut + rest) / whole for whole, _, cut, rest in rounds],
            seconds,
            peaks,
            f"outcomes that were written twice, in each round: {', '.join(map(str, repeated))}",
        ),
    ]


def _rows(lake: Lake, stages: list[str]) -> int:
    """Rows in the files of stage tables, repeated ones included."""
    return sum(
        dataset.count_rows()
        for stage in stages
        for prints in [lake.fs.ls(lake.path("annotations", stage), detail=False)]
        for one in prints
        if (dataset := lake.dataset("annotations", stage, one.rsplit("/", 1)[-1])) is not None
    )
