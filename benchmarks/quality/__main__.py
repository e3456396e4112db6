"""`make quality`: MSF-SER, the same without LES, GS, ES or all text, and the concat baseline, on planted speech.

    python -m benchmarks.quality [--rows ROW …] [--set section.key=value …] [--lake FOLDER]

The rows are trained as `benchmarks.quality.rows` says. The corpus is synthetic: this tests the software and is no
evidence about people.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pyarrow.compute as pc
from benchmarks.quality import rows as table
from benchmarks.quality.annotate import annotate, stage_values
from benchmarks.quality.page import Scored, write_page
from benchmarks.quality.rows import RECOGNISED, Reporter, Row

from emoray.config import merge, validate
from emoray.corpora import build, ceiling
from emoray.lake.tables import Lake
from emoray.models.batch import LEVELS
from emoray.stages.config import AnnotateConfig

NOTE = "Rows are scored with given transcripts and all that they read, unless they say otherwise."
#: Semantic level → what it adds to the row's name.
LEVEL_NAMES = {
    "full": "",
    RECOGNISED: ", scored with recognised transcripts (word error rate {wer:.2f})",
    "transcript": ", scored with the transcript, without ES",
    "audio": ", scored from audio alone",
}
FULL = "MSF-SER"
#: The rows, all trained from scratch.
ROWS = {
    row.name: row
    for row in (
        Row(FULL, {"name": "msf_ser"}, levels=tuple(LEVELS), recognised=True),
        Row("without LES", {"name": "msf_ser", "granularities": ["gs", "es"]}, under=FULL),
        Row("without GS", {"name": "msf_ser", "granularities": ["les", "es"]}, under=FULL),
        Row("without ES", {"name": "msf_ser", "granularities": ["les", "gs"]}, under=FULL),
        Row("without all text (acoustic)", {"name": "acoustic"}, under=FULL),
        Row("concat baseline", {"name": "concat"}, under=FULL),
        Row("predict the train mean", {"name": "mean"}, under=FULL),
    )
}


def word_error_rate(lake: Lake, corpus: str, fingerprint: str) -> float:
    """Word error rate of the recogniser on the test split, without case and punctuation."""
    from torchmetrics.functional.text import word_error_rate as rate

    found = stage_values(lake, "transcribe", fingerprint)
    rows = lake.utterances(corpus, ["utterance_id", "split", "transcript"]).to_pylist()
    test = [row for row in rows if row["split"] == "test"]
    given = [_plain(row["transcript"]) for row in test]
    # A clip in which nothing was recognised counts with all its words.
    recognised = [_plain(found.get(row["utterance_id"], {}).get("text") or "") for row in test]
    return float(rate(recognised, given))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def main(arguments: list[str] | None = None) -> int:
    """Build, annotate, train what is missing, print the table and write the page."""
    options = table.options_of("benchmarks.quality", __doc__, ROWS, "quality").parse_args(arguments)
    report, sections = Reporter(), table.configuration(options)
    lake, corpus, annotation = Lake(sections.lake), sections.corpus, sections.annotate
    build(corpus, lake, lambda done, total: report("corpus", done, total))

    prints, norms = annotate(sections.lake, corpus.name, annotation, options.processes, report)
    # As in service: the words are recognised, the norms and the model are those fitted on given transcripts.
    recognised = validate(AnnotateConfig, merge(annotation.model_dump(), {"transcribe": {"kind": "pocketsphinx"}}))
    recognised_prints, _ = annotate(
        sections.lake, corpus.name, recognised, options.processes, report, split="test", norms=norms
    )
    set_hash = table.pack_corpus(sections, corpus.name, prints, report)
    test = lake.utterances(corpus.name, ["utterance_id", "split"]).filter(pc.field("split") == "test")
    only = test["utterance_id"].to_pylist()
    recognised_hash = table.pack_corpus(sections, corpus.name, recognised_prints, report, only=only)

    rows = [row for name, row in ROWS.items() if not options.rows or name in options.rows]
    jobs = table.jobs_of(rows, options.seeds, sections, lambda _: set_hash, recognised_hash)
    table.train_missing(jobs, options.processes, report)
    wer = word_error_rate(lake, corpus.name, recognised_prints["transcribe"])
    scored = [
        Scored.of(row, jobs, level, f"{row.name}{words.format(wer=wer)}")
        for row in rows
        for level, words in LEVEL_NAMES.items()
        if level in row.levels or (row.recognised and level == RECOGNISED)
    ]
    page = write_page(
        Path(options.out) / "quality",
        "Quality on planted speech",
        NOTE,
        {f"{FULL}, its ablations and baselines": scored},
        ceiling=ceiling(lake, corpus.name),
        seconds=time.monotonic() - report.began,
        processes=options.processes,
        word_error_rate=wer,
    )
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
