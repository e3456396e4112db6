"""`emoray annotate` that records each row that a stage begins: `python -m benchmarks.chaos.driver CONFIG CALLS`.

The records show how much work was done twice. The tables cannot show that: they do not hold what a killed process had
computed and not yet sent to the writer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from emoray.config import load
from emoray.errors import EmorayError
from emoray.stages import pipeline
from emoray.stages.base import Row, Stage, Value
from emoray_jobs.annotate import job as annotate
from emoray_jobs.config import Config


def counted(stage: Stage, folder: str) -> Stage:
    """The stage, which appends a line per row to its process's file before it runs."""
    base = type(stage)

    class Counted(base):  # type: ignore[misc, valid-type]
        def run(self, rows: list[Row]) -> list[Value]:
            lines = "".join(f"{self.name} {row['utterance_id']}\n" for row in rows)
            file = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(file, lines.encode())
            os.close(file)
            return super().run(rows)

    stage.__class__ = Counted
    return stage


def calls(folder: Path) -> Iterator[tuple[str, str]]:
    """The records: stage and utterance_id, once for each time that a stage began the row."""
    for file in folder.iterdir():
        for line in file.read_text().splitlines():
            stage, _, utterance_id = line.partition(" ")
            yield stage, utterance_id


def _counting(stages: Callable[..., list[Stage]], folder: str) -> Callable[..., list[Stage]]:
    return lambda *arguments: [counted(stage, folder) for stage in stages(*arguments)]


def main(config_file: str, folder: str) -> int:
    """Annotate; print the counts and fingerprints as JSON."""
    config: Any = load(Config, file=Path(config_file))
    pipeline.audio_stages = _counting(pipeline.audio_stages, folder)
    pipeline.text_stages = _counting(pipeline.text_stages, folder)
    try:
        result = annotate.run(config)
    except EmorayError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps({"counts": vars(result.counts), "fingerprints": result.fingerprints}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
