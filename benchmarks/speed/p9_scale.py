"""P9: memory and time of annotate as the table grows from 1,000 to 100,000 rows, with cheap stages.

    python -m benchmarks.speed.p9_scale [--rows 1000,3000,10000,30000,100000]

The rows share 50 clips of a fifth of a second. Text vectors are left out: their cost does not depend on the table's
size. The rest is the platform's own work. Each size runs in its own process. A finished size is not repeated while
the code is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from benchmarks import proc
from benchmarks.clips import CORPUS, buzz, utterance, write_corpus
from benchmarks.sources import mark

from emoray.audio.io import AUDIO_HZ
from emoray.config import load, to_yaml
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray_jobs.annotate import job as annotate
from emoray_jobs.config import Config

FOLDER = Path(__file__).parents[1]
CLIPS = 50
CLIP_S = 0.2
SAMPLE_S = 0.5
#: Most that memory may grow from the smallest table to the largest.
MAX_GROWTH = 0.10


def drive(config_file: str) -> int:
    """Annotate without vectors; print the time and the counts."""
    config: Any = load(Config, file=Path(config_file))
    text_stages = pipeline.text_stages
    pipeline.text_stages = lambda *arguments: text_stages(*arguments)[:2]
    result = annotate.run(config)
    sys.stdout.write(json.dumps({"wall_s": result.wall_s, "counts": vars(result.counts)}) + "\n")
    return 0


def watch(driver: subprocess.Popen[str], peaks: dict[str, int], ended: threading.Event) -> None:
    """Record the largest memory: of the driver, and of it with all that it started."""
    while not ended.wait(SAMPLE_S):
        sizes = {pid: proc.memory_bytes(pid) for pid in proc.descendants(driver.pid)}
        peaks["driver"] = max(peaks["driver"], sizes[driver.pid])
        peaks["all"] = max(peaks["all"], sum(sizes.values()))


def measure(work: Path, rows: int) -> dict[str, Any]:
    """Annotate a table of `rows` rows in a fresh lake."""
    shutil.rmtree(work / "lake", ignore_errors=True)
    overrides = (f"lake.root={work / 'lake'}", f"corpus.name={CORPUS}", "summary.track=false")
    config = load(Config, overrides=overrides, environ={})
    (work / "audio").mkdir(parents=True, exist_ok=True)
    paths = [work / "audio" / f"{number}.wav" for number in range(CLIPS)]
    for number, path in enumerate(paths):
        soundfile.write(path, buzz(CLIP_S, number), AUDIO_HZ)
    write_corpus(Lake(config.lake), [utterance(n, str(paths[n % CLIPS]), CLIP_S) for n in range(rows)])
    file = work / "config.yaml"
    file.write_text(to_yaml(config))
    command = [sys.executable, "-m", "benchmarks.speed.p9_scale", "--drive", str(file)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])}
    peaks, ended = {"driver": 0, "all": 0}, threading.Event()
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        watcher = threading.Thread(target=watch, args=(driver, peaks, ended))
        watcher.start()
        printed, _ = driver.communicate()
        ended.set()
        watcher.join()
    if driver.returncode:
        raise SystemExit(f"annotate of {rows} rows ended with status {driver.returncode}")
    result = json.loads(printed.splitlines()[-1])
    if result["counts"]["complete"] != rows:
        raise SystemExit(f"not every row is complete: {result['counts']}")
    mib = {f"{name}_peak_mib": round(peak / 2**20, 1) for name, peak in peaks.items()}
    return {"rows": rows, "wall_s": round(time.monotonic() - began, 1), "annotate_s": round(result["wall_s"], 1)} | mib


def growth(found: list[dict[str, Any]], key: str) -> float:
    """Growth of a peak from the smallest table to the largest."""
    return float(found[-1][key] / found[0][key] - 1)


def page(found: list[dict[str, Any]]) -> str:
    """The table, the line through it, and how much memory grew."""
    rows = np.array([one["rows"] for one in found], np.float64)
    wall_s = np.array([one["annotate_s"] for one in found])
    what = f"Five cheap stages, clips of {CLIP_S} s, {len(os.sched_getaffinity(0))} cores. Memory is the proportional "
    what += "set size, sampled twice a second, of all processes of the local Ray together and of the driver. The driver"
    what += " peaks at the end, when it is the only process left and counts all shared pages."
    lines = [
        "# P9: annotate as the table grows",
        "",
        what,
        "",
        "| rows | annotate, s | rows/s | driver, MiB | all processes, MiB |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one['rows']:,} | {one['annotate_s']} | {one['rows'] / one['annotate_s']:.0f} "
        f"| {one['driver_peak_mib']:.0f} | {one['all_peak_mib']:.0f} |"
        for one in found
    ]
    if len(found) > 2:
        slope, start = np.polyfit(rows, wall_s, 1)
        rest = wall_s - (slope * rows + start)
        share = 1 - float(rest @ rest) / float(np.sum((wall_s - wall_s.mean()) ** 2))
        lines += ["", f"Time: {start:.1f} s + {slope * 1000:.2f} s per 1,000 rows (least squares, R² = {share:.4f})."]
    grown = f"all processes {growth(found, 'all_peak_mib'):+.1%}, driver {growth(found, 'driver_peak_mib'):+.1%}"
    span = f"from {found[0]['rows']:,} to {found[-1]['rows']:,} rows"
    lines += ["", f"Memory {span}: {grown} (goal for all: at most {MAX_GROWTH:+.0%}).", ""]
    return "\n".join(lines)


def main() -> int:
    """Measure the sizes that are missing; print and write the page. 1 if memory grew by more than `MAX_GROWTH`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000,3000,10000,30000,100000")
    parser.add_argument("--work", type=Path, default=FOLDER.parent / ".bench" / "scale")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        return drive(options.drive)
    options.work.mkdir(parents=True, exist_ok=True)
    record = options.work / f"sizes-{mark()}.json"
    found = json.loads(record.read_text()) if record.exists() else []
    for rows in (int(text) for text in options.rows.split(",")):
        if rows not in {one["rows"] for one in found}:
            found.append(measure(options.work, rows))
            found.sort(key=lambda one: one["rows"])
            record.write_text(json.dumps(found))
            print(json.dumps(found[-1]), flush=True)
    text = page(found)
    print(text)
    results = FOLDER / "results"
    results.mkdir(exist_ok=True)
    (results / "scale.md").write_text(text, encoding="utf-8")
    (results / "scale.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(growth(found, "all_peak_mib") > MAX_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
