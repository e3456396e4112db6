"""`make quality`: MSF-SER, its ablations and baselines, and one checkpoint against a model for each set of semantics.

    python -m benchmarks.quality [--rows ROW …] [--set section.key=value …] [--lake FOLDER]

The rows are trained as `benchmarks.quality.rows` says, each under two conditions, as the preset has them: five clips
enrol the speaker, or the speaker is unknown. The test clips are those that enrol nobody. The corpus is synthetic: this
tests the software and is no evidence about people.
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
from emoray.stages.conditions import Condition, FittedCondition
from emoray.stages.config import AnnotateConfig

NOTE = (
    "Rows are scored with five enrolment clips, given transcripts and all that they read, unless they say otherwise."
    " A specialist is trained and scored on one set of text vectors alone, and never loses any of them."
)
FULL = "MSF-SER"
#: Condition without the speaker.
STRANGER = "unknown/reference"
#: Semantic level → what it adds to the row's name.
LEVEL_NAMES = {
    "full": "",
    f"full/{STRANGER}": ", speaker unknown",
    RECOGNISED: ", words recognised by Moonshine (word error rate {wer:.2f})",
    "transcript": ", without ES",
    "gs+es": ", without LES",
    "gs": ", GS alone",
    "es": ", ES alone",
    "audio/enrolled-5/reference": ", audio alone",
}


def _specialist(level: str, words: str) -> Row:
    """A model for one set of text vectors."""
    model = {"name": "msf_ser", "granularities": list(LEVELS[level])} if LEVELS[level] else {"name": "acoustic"}
    return Row(f"specialist{words or ', all text'}", model, KEEPS, under=f"{FULL}{words}")


#: Text vectors are never taken away in training.
KEEPS = {"augment": {"modality_dropout": 0.0}}
#: One specialist per set.
SPECIALISTS = [
    _specialist(level.partition("/")[0], words)
    for level, words in LEVEL_NAMES.items()
    if level.partition("/")[0] in LEVELS and STRANGER not in level
]
#: The rows, all trained from scratch.
ROWS = {
    row.name: row
    for row in (
        Row(
            FULL,
            {"name": "msf_ser"},
            levels=tuple(level for level in LEVEL_NAMES if level != RECOGNISED),
            recognised=True,
        ),
        Row("without LES", {"name": "msf_ser", "granularities": ["gs", "es"]}, under=FULL),
        Row("without GS", {"name": "msf_ser", "granularities": ["les", "es"]}, under=FULL),
        Row("without ES", {"name": "msf_ser", "granularities": ["les", "gs"]}, under=FULL),
        Row("without all text (acoustic)", {"name": "acoustic"}, under=FULL),
        Row("concat baseline", {"name": "concat"}, under=FULL),
        Row("predict the train mean", {"name": "mean"}, under=FULL),
        *SPECIALISTS,
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

    at = (sections.lake, corpus.name)
    prints, norms = annotate(*at, annotation, options.processes, report)
    strangers, unknown = annotate(*at, annotation, options.processes, report, norms=norms.without_speakers())
    # As in service: the words are recognised, the norms and the model are those fitted on given transcripts.
    recognised = validate(AnnotateConfig, merge(annotation.model_dump(), {"transcribe": {"kind": "moonshine"}}))
    recognised_prints, _ = annotate(*at, recognised, options.processes, report, split="test", norms=norms)
    enrolled = Condition(annotation.norms.enrol_clips, "reference").name
    under = [FittedCondition(enrolled, prints, norms.hash), FittedCondition(STRANGER, strangers, unknown.hash)]
    set_hash = table.pack_corpus(sections, corpus.name, {}, report, under=under)
    test = lake.utterances(corpus.name, ["utterance_id", "split"]).filter(pc.field("split") == "test")
    only, heard = test["utterance_id"].to_pylist(), FittedCondition(enrolled, recognised_prints, norms.hash)
    recognised_hash = table.pack_corpus(sections, corpus.name, {}, report, only=only, under=[heard])

    rows = [row for name, row in ROWS.items() if not options.rows or name in options.rows]
    jobs = table.jobs_of(rows, options.seeds, sections, lambda _: set_hash, recognised_hash)
    table.train_missing(jobs, options.processes, report)
    wer = word_error_rate(lake, corpus.name, recognised_prints["transcribe"])
    found = {
        row.name: [
            Scored.of(row, jobs, level, f"{row.name}{words.format(wer=wer)}")
            for level, words in LEVEL_NAMES.items()
            if level in row.levels or (row.recognised and level == RECOGNISED)
        ]
        for row in rows
    }
    special = {row.name for row in SPECIALISTS}
    systems = {
        f"{FULL}, its ablations and baselines": [one for name in found if name not in special for one in found[name]],
        "One checkpoint against a model for each set": [
            one for name in found if name in special for one in found[name]
        ],
    }
    page = write_page(
        Path(options.out) / "quality",
        "Quality on planted speech",
        NOTE,
        {title: part for title, part in systems.items() if part},
        ceiling=ceiling(lake, corpus.name),
        seconds=time.monotonic() - report.began,
        processes=options.processes,
        word_error_rate=wer,
    )
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
