"""Annotate 60 real clips with every kind of recogniser and describer, with the shipped bounds.

    python -m benchmarks.speed.real_clips --path FOLDER [--only CASE …]

FOLDER holds `ravdess/Actor_*/*.flac` and `emodb/wav/*.wav`. The models are tiny, with random weights, in fp32 or fp16:
what is shown is that every row is answered, when the first rows are stored, and how long the command says nothing, not
what a transcript or a description is worth. For Whisper the checks against repetition are off: random weights repeat
themselves. Servers are vLLM's own, started by `make vllm-serve`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import polars as pl
from benchmarks.tiny import Size, make

from emoray.config import load
from emoray.corpora.emodb import SENTENCES
from emoray.lake.tables import Lake
from emoray_jobs.annotate.state import state
from emoray_jobs.config import Config

ROOT = Path(__file__).parents[2]
CLIPS = 60
CORPUS = "real"
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
#: Random weights repeat themselves, which is what this check refuses.
UNCHECKED = ("annotate.transcribe.checks.max_repeats=null", "annotate.transcribe.checks.max_compression=null")


@dataclass(frozen=True)
class Case:
    """One way to annotate.

    Attributes:
        name: Its name.
        stage: Whose rows are counted.
        options: What differs from the shipped preset; `{model}` is the checkpoint, `{url}` the server's address.
        model: Tiny checkpoint, and whether it is saved in fp16.
        serve: Behind `make vllm-serve`.
    """

    name: str
    stage: str
    options: tuple[str, ...]
    model: tuple[str, bool] | None = None
    serve: bool = False


def _whisper(dtype: str, language: str) -> Case:
    options = (
        "annotate.transcribe.kind=whisper",
        "annotate.transcribe.whisper.model={model}",
        f"annotate.transcribe.whisper.dtype={dtype}",
        f"annotate.transcribe.whisper.language={language}",
        *UNCHECKED,
    )
    name = f"whisper {dtype}, language {'not known' if language == 'null' else language}"
    return Case(name, "transcribe", options, ("whisper", dtype == "float16"))


def _describer(kind: str, checkpoint: str, *, half: bool) -> tuple[Case, Case]:
    common = (f"annotate.semantics.kind={kind}", f"annotate.semantics.{kind}.model={{model}}")
    engine = "annotate.semantics.engine"
    behind = (
        f"annotate.semantics.kind={kind}",
        f"annotate.semantics.{kind}.model=tiny",
        f"annotate.semantics.{kind}.revision=r1",
        f"{engine}.kind=endpoint",
        f"{engine}.endpoint.url={{url}}",
    )
    saved = "fp16" if half else "fp32"
    return (
        Case(f"{kind} in vLLM, {saved}", "semantics", common, (checkpoint, half)),
        Case(f"{kind} at an endpoint", "semantics", behind, (checkpoint, False), serve=True),
    )


CASES = (
    *_describer("text_llm", "qwen2", half=True),
    *_describer("audio_llm", "qwen2_audio", half=True),
    *(_whisper(dtype, language) for dtype in ("float32", "float16") for language in ("en", "null")),
    Case(
        "whisper_vllm",
        "transcribe",
        ("annotate.transcribe.kind=whisper_vllm", "annotate.transcribe.whisper_vllm.model={model}", *UNCHECKED),
        ("whisper", False),
    ),
    Case(
        "transcription endpoint",
        "transcribe",
        (
            "annotate.transcribe.kind=endpoint",
            "annotate.transcribe.endpoint.url={url}",
            "annotate.transcribe.endpoint.model=tiny",
            "annotate.transcribe.endpoint.revision=r1",
            *UNCHECKED,
        ),
        ("whisper", False),
        serve=True,
    ),
    Case("moonshine", "transcribe", ("annotate.transcribe.kind=moonshine",)),
)


@dataclass
class Reading:
    """What one case showed.

    Attributes:
        name: The case.
        clips: Clips.
        values: Of those, with a value of the stage in question.
        errors: Number of errors by kind.
        first_row_s: Seconds until the first rows of the stage were stored.
        wall_s: Seconds of the whole command.
        longest_silence_s: Longest time without a line of output, start and end included.
        status: Exit status.
    """

    name: str
    clips: int
    values: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    first_row_s: float | None = None
    wall_s: float = 0.0
    longest_silence_s: float = 0.0
    status: int = 0


def choose(folder: Path) -> pl.DataFrame:
    """Every n-th clip of each corpus, half of them from each, with transcripts and speakers."""
    acted = sorted(folder.glob("ravdess/Actor_*/*.flac"))
    german = sorted(folder.glob("emodb/wav/*.wav"))
    if not acted or not german:
        raise SystemExit(f"{folder} has no ravdess/Actor_*/*.flac, or no emodb/wav/*.wav")
    rows = []
    for path in acted[:: len(acted) // (CLIPS // 2)][: CLIPS // 2]:
        parts = path.stem.split("-")
        rows.append((str(path.absolute()), STATEMENTS[parts[4]], f"r{parts[6]}", "en"))
    rows += [
        (str(path.absolute()), SENTENCES[path.stem[2:5]], f"e{path.stem[:2]}", "de")
        for path in german[:: len(german) // (CLIPS // 2)][: CLIPS // 2]
    ]
    return pl.DataFrame(rows, schema=["audio_uri", "transcript", "speaker_id", "language"], orient="row")


def checkpoint(work: Path, name: str, *, half: bool) -> Path:
    """A tiny checkpoint, made once."""
    folder = work / f"{name}-{'fp16' if half else 'fp32'}"
    if not folder.exists():
        make(name, folder, size=Size(answer_tokens=24))
        if half:
            _halve(folder)
    return folder


def _halve(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = {name: one.to(torch.float16) for name, one in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(settings))


@contextlib.contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """A server of the model; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["make", "-s", "vllm-serve", f"VENV={sys.prefix}", f"MODEL={model}", f"PORT={port}"]
    settings = "SERVE_ARGS=--served-model-name tiny"
    with log.open("wb") as file:
        server = subprocess.Popen([*command, settings], cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
    try:
        while True:
            if server.poll() is not None:
                raise SystemExit(f"the server ended: see {log}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def annotate(case: Case, work: Path, manifest: Path, options: Sequence[str]) -> Reading:
    """Build the corpus in its own lake, and annotate it."""
    lake_folder = work / "lake"
    shutil.rmtree(lake_folder, ignore_errors=True)
    overrides = (
        f"lake.root={lake_folder}",
        f"corpus.name={CORPUS}",
        "corpus.kind=manifest",
        f"corpus.manifest.path={manifest}",
        "summary.track=false",
        *options,
    )
    words = [word for one in overrides for word in ("--set", one)]
    command = [sys.executable, "-m", "emoray_jobs"]
    subprocess.run([*command, "corpus", "build", *words], check=True, stdout=subprocess.DEVNULL)
    reading = Reading(case.name, CLIPS)
    config = load(Config, overrides=overrides, environ={})
    lake = Lake(config.lake)
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, "annotate", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = [started]

    def listen() -> None:
        assert process.stdout is not None
        with (work / "annotate.log").open("a") as log:
            log.write(f"== {case.name}\n")
            for line in process.stdout:
                said.append(time.monotonic())
                log.write(f"{said[-1] - started:7.1f} s  {line}")

    listener = threading.Thread(target=listen)
    listener.start()
    stored = Path(lake.path("annotations", case.stage))
    while process.poll() is None:
        if reading.first_row_s is None and any(stored.glob("*/*.parquet")):
            reading.first_row_s = round(time.monotonic() - started, 1)
        time.sleep(0.1)
    listener.join()
    said.append(time.monotonic())
    reading.status, reading.wall_s = process.returncode, round(said[-1] - started, 1)
    reading.longest_silence_s = round(max(after - before for before, after in itertools.pairwise(said)), 1)
    with contextlib.suppress(Exception):  # annotate did not come so far: the log says why
        fingerprint = state(lake, CORPUS, config.annotate).fingerprints[case.stage]
        outcomes = lake.stage_outcomes(case.stage, fingerprint, columns=["value", "error"]).collect()
        reading.values = outcomes.filter(pl.col("value").is_not_null()).height
        kinds = outcomes["error"].drop_nulls().struct.field("type").value_counts()
        reading.errors = dict(kinds.iter_rows())
    return reading


def page(readings: Sequence[Reading]) -> str:
    """The table."""
    lines = [
        "| case | rows complete | errors | first rows stored | whole | longest silence | exit |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in readings:
        errors = ", ".join(f"{count} {kind}" for kind, count in one.errors.items()) or "–"
        first = f"{one.first_row_s:g} s" if one.first_row_s is not None else "–"
        lines.append(
            f"| {one.name} | {one.values} of {one.clips} | {errors} | {first} | {one.wall_s:g} s"
            f" | {one.longest_silence_s:g} s | {one.status} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; print and write the table. 1 if a row of any case is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=None, help="cases whose name contains one of these")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "real_clips")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the readings")
    options = parser.parse_args(arguments)
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    manifest = work / "clips.csv"
    choose(options.path).write_csv(manifest)
    readings = []
    for case in CASES:
        if options.only and not any(word in case.name for word in options.only):
            continue
        model = checkpoint(work, case.model[0], half=case.model[1]) if case.model else Path()
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(served(model, work / "server.log")) if case.serve else ""
            filled = [one.format(model=model, url=url) for one in case.options]
            readings.append(annotate(case, work, manifest, filled))
        print(page(readings[-1:]).splitlines()[-1], flush=True)
    print(page(readings))
    if options.out:
        options.out.write_text(json.dumps([asdict(one) for one in readings], indent=1) + "\n", encoding="utf-8")
    return int(any(one.status or one.values < one.clips for one in readings))


if __name__ == "__main__":
    sys.exit(main())
