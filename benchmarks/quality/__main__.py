"""`make quality`: MSF-SER, the same without LES, GS, ES or all text, and the concat baseline, on planted speech.

The rows are trained as `benchmarks.quality.rows` says. The corpus is synthetic: this tests machinery and is no evidence
about people.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from benchmarks.quality.annotate import annotate, stage_values
from benchmarks.quality.page import Scored, write_quality
from benchmarks.quality.rows import Job, Reporter, configuration, parser, train_missing

from emoray.config import merge, validate
from emoray.corpora import build, ceiling
from emoray.lake.tables import Lake
from emoray.models.batch import LEVELS
from emoray.models.build import frontend
from emoray.stages.config import AnnotateConfig
from emoray.training.pack import pack

RESULTS = Path(__file__).parents[1] / "results"

FULL, MEAN = "MSF-SER", "predict the train mean"
#: What differs from the preset's model in each row; all are trained from scratch.
ROWS: dict[str, dict[str, Any]] = {
    FULL: {"name": "msf_ser"},
    "without LES": {"name": "msf_ser", "granularities": ["gs", "es"]},
    "without GS": {"name": "msf_ser", "granularities": ["les", "es"]},
    "without ES": {"name": "msf_ser", "granularities": ["les", "gs"]},
    "without all text (acoustic)": {"name": "acoustic"},
    "concat baseline": {"name": "concat"},
    MEAN: {"name": "mean"},
}


def word_error_rate(lake: Lake, corpus: str, fingerprint: str) -> float:
    """Word error rate of the recogniser on the test split, without case and punctuation."""
    from torchmetrics.functional.text import word_error_rate as rate

    heard = stage_values(lake, "transcribe", fingerprint)
    rows = lake.utterances(corpus, ["utterance_id", "split", "transcript"]).to_pylist()
    test = [row for row in rows if row["split"] == "test"]
    said = [_plain(row["transcript"]) for row in test]
    # A clip in which nothing was recognised counts with all its words.
    recognised = [_plain(heard.get(row["utterance_id"], {}).get("text") or "") for row in test]
    return float(rate(recognised, said))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def main(arguments: list[str] | None = None) -> int:
    """Build, annotate, train what is missing, print the table and write the page."""
    options = parser(
        "make quality ARGS=…", (__doc__ or "").splitlines()[0], list(ROWS), "quality", str(RESULTS)
    ).parse_args(arguments)
    report, sections = Reporter(), configuration(options)
    corpus, annotation, model, train = sections.corpus, sections.annotate, sections.model, sections.train
    lake_config = sections.lake
    lake = Lake(lake_config)
    build(corpus, lake, lambda done, total: report("corpus", done, total))

    prints, norms = annotate(lake_config, corpus.name, annotation, options.processes, report)
    # As in service: the words are recognised, the norms and the model are those fitted on given transcripts.
    heard = validate(AnnotateConfig, merge(annotation.model_dump(), {"transcribe": {"kind": "pocketsphinx"}}))
    heard_prints, _ = annotate(lake_config, corpus.name, heard, options.processes, report, split="test", norms=norms)
    packing: dict[str, Any] = {
        "frontend": frontend(model.encoder),
        "audio": annotation.audio,
        "text_width": model.text_width,
        "shard_rows": sections.launch.shard_rows,
        "storage_options": lake_config.storage_options,
        "progress": lambda done, total: report("pack", done, total),
    }
    set_hash = pack(lake, corpus.name, prints, **packing)
    test = lake.utterances(corpus.name, ["utterance_id", "split"]).filter(pc.field("split") == "test")
    recognised_hash = pack(lake, corpus.name, heard_prints, only=test["utterance_id"].to_pylist(), **packing)

    rows = {name: change for name, change in ROWS.items() if not options.rows or name in options.rows}
    jobs = [
        Job(
            row,
            seed,
            lake_config,
            set_hash,
            recognised_hash if row == FULL else None,
            *sections.changed(change, {"seed": seed}),
            sections.launch,
            levels=tuple(LEVELS) if row == FULL else ("full",),
        )
        for seed in range(options.seeds)
        for row, change in rows.items()
        if seed == 0 or row != MEAN
    ]
    train_missing(jobs, options.processes, report)
    scored = [Scored.of(row, [job for job in jobs if job.row == row], None if row == FULL else FULL) for row in rows]
    settings = {"model": model.model_dump(mode="json"), "train": train.model_dump(mode="json"), "set": set_hash}
    page = write_quality(
        Path(options.out),
        scored,
        ceiling=ceiling(lake, corpus.name),
        wer=word_error_rate(lake, corpus.name, heard_prints["transcribe"]),
        seconds=time.monotonic() - report.began,
        settings=settings,
    )
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
