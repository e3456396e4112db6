"""The table of systems on planted speech: every model and ablation, three seeds each.

    python -m benchmarks.quality.systems [--rows ROW …] [--set section.key=value …] [--lake FOLDER]

CCC of valence, arousal, dominance and their mean, or UA and WA, with intervals, and the paired difference between a
system and the same without one of its parts. Rows are trained as `benchmarks.quality.rows` says: in process, on packed
features. A second run trains what is missing, so the run may be killed at any time. The corpus is synthetic: the table
tests the software.

The whole took 65 min on two cores, corpus and annotation (7) included, the first 26 beside another benchmark.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.quality import rows as table
from benchmarks.quality.annotate import annotate
from benchmarks.quality.page import Scored, write_page
from benchmarks.quality.rows import Job, Reporter, Row, Sections

from emoray.config import merge
from emoray.corpora import CorpusConfig, build, ceiling
from emoray.lake.tables import Lake

NOTE = """Every row has
all that its model reads. Epochs are few, those of CNN14 (a quarter of the published width) fewest, so rows are compared
within their system and not across systems. The perspective loss has its own corpus: two voices of a split in turn,
labels that carry over from one turn to the next."""

#: The emotions of the synthetic corpus, which follow from valence and arousal.
CLASSES = ["anger", "calm", "happiness", "neutral", "sadness"]
#: Turns of a dialogue.
TURNS = 10
#: Half of the preset's.
EPOCHS = {"epochs": 10}
#: A clip of 3 s costs MSF-SER 7 ms of a core, forward and backward, CNN14 a hundred: few epochs, small batches for more
#: steps per epoch, and half of a clip at a time. Evaluation uses the whole clip.
CNN14: dict[str, Any] = {"encoder": {"kind": "cnn14"}, "granularities": ["gs"]}
CNN14_TRAIN: dict[str, Any] = {
    "epochs": 2,
    "plan": {"batch_size": 16},
    "augment": {"crop_s": 1.5, "modality_dropout": 0.0},
}
CATEGORICAL = {"objective": {"ccc": 0.0, "category": 1.0, "region": 0.0}}
#: As published, except for fewer epochs, and 4 dialogues a batch instead of 20 for more steps per epoch.
DIALOGUES_TRAIN: dict[str, Any] = {
    "epochs": 20,
    "plan": {"batch_size": 4, "buckets": 1},
    "augment": {"crop_s": None, "modality_dropout": 0.0},
    "objective": {"ccc": 0.0, "category": 1.0, "class_weights": False},
    "optimizer": {"kind": "adam", "lr": 1.0e-3, "weight_decay": 1.0e-5},
}
MSF, EMOSPHERE, MULTISTAGE, PERSPECTIVE = "MSF-SER", "EmoSphere-SER", "multistage", "late fusion by addition"


def msf(name: str, under: str | None = MSF, **model: Any) -> Row:
    """A row of MSF-SER with changes."""
    return Row(name, {"name": "msf_ser", **model}, under=under)


def cnn14(name: str, model: str, under: str | None = MULTISTAGE) -> Row:
    """A row of the family of multistage conditioning, which reads the transcript."""
    return Row(name, {**CNN14, "name": model}, CNN14_TRAIN, under)


def perspective(name: str, under: str | None = PERSPECTIVE, objective: Any = None, **options: Any) -> Row:
    """A row of the perspective loss with changes."""
    model = {"name": "perspective", "granularities": ["gs"], "width": 100, "hidden": 100, "classes": CLASSES}
    train = merge(DIALOGUES_TRAIN, {"objective": objective or {}})
    return Row(name, {**model, "perspective": options}, train, under, classes=True, dialogues=True)


def by_classes(row: Row) -> Row:
    """The same trained on classes alone."""
    under = row.under and f"{row.under}, classes"
    model = {**row.model, "classes": CLASSES}
    return Row(f"{row.name}, classes", model, merge(dict(row.train), CATEGORICAL), under, classes=True)


ACOUSTIC = Row("acoustic", {"name": "acoustic"}, under=MSF)
CONCAT = Row("concat", {"name": "concat"}, under=MSF)
TEXT = Row("text: LES, GS and ES", {"name": "text"}, under=MSF)
MEAN = Row("train mean", {"name": "mean"})
SPHERE = Row(EMOSPHERE, {"name": "emosphere"})
STAGES = (
    cnn14(MULTISTAGE, "multistage", None),
    cnn14("single-stage", "single_stage"),
    cnn14("late fusion", "late_fusion"),
    cnn14("cnn14: sound alone", "cnn14"),
    cnn14("text: GS", "text"),
)

#: The systems and their rows, in the order of the page.
SYSTEMS: dict[str, tuple[Row, ...]] = {
    "MSF-SER (arXiv 2510.05749) and its ablations": (
        msf(MSF, None),
        msf("without LES", granularities=["gs", "es"]),
        msf("without GS", granularities=["les", "es"]),
        msf("without ES", granularities=["les", "gs"]),
        msf("concat MLP for FM-MOE", fusion={"kind": "concat_mlp"}),
        msf("cross-attention for FM-MOE", fusion={"kind": "cross_attention"}),
        msf("one router for V, A and D", fusion={"moe": {"router": "shared"}}),
        msf("softmax gate", fusion={"gate": "softmax"}),
    ),
    "Baselines": (ACOUSTIC, CONCAT, TEXT, MEAN),
    "EmoSphere-SER (arXiv 2505.19693)": (
        SPHERE,
        Row("EmoSphere-SER without its region loss", SPHERE.model, {"objective": {"region": 0.0}}, EMOSPHERE),
    ),
    "Multistage conditioning (arXiv 2110.06650)": STAGES,
    "Perspective loss (arXiv 2304.03899), on dialogues": (
        perspective(PERSPECTIVE, None, fusion="late", operator="add"),
        perspective("without the modalities' own losses", objective={"modalities": 0.0}),
        perspective("the loss as released", objective={"as_released": True}),
        *(
            perspective(f"{fusion} fusion by {name}", fusion=fusion, operator=operator)
            for fusion in ("late", "hidden", "early")
            for operator, name in (("add", "addition"), ("concat", "concatenation"), ("attention", "attention"))
            if (fusion, operator) != ("late", "add")
        ),
    ),
    "Classes": tuple(map(by_classes, (msf(MSF, None), ACOUSTIC, CONCAT, TEXT, SPHERE, *STAGES, MEAN))),
}
ROWS = {row.name: row for rows in SYSTEMS.values() for row in rows}


def chosen(names: Sequence[str] | None) -> dict[str, tuple[Row, ...]]:
    """The systems with the rows of these names alone, or all; systems without a row are left out."""
    picked = {system: tuple(row for row in rows if not names or row.name in names) for system, rows in SYSTEMS.items()}
    return {system: rows for system, rows in picked.items() if rows}


#: The published systems are compared over one encoder that is trained with each of them.
LOG_MELS = ("model.encoder.kind=logmel", "model.encoder.speaker_norms=false")
#: Training set of a row: whether it consists of dialogues, and the kind of encoder.
Needed = tuple[bool, str]


def needed(row: Row, sections: Sections) -> Needed:
    """The training set that a row needs."""
    return row.dialogues, str(row.model.get("encoder", {}).get("kind", sections.model.encoder.kind))


def jobs_of(
    systems: Mapping[str, Sequence[Row]], seeds: int, sections: Sections, set_hash: Mapping[Needed, str]
) -> list[Job]:
    """All jobs; `EPOCHS` holds for rows that name no epochs."""
    rows = [replace(row, train={**EPOCHS, **row.train}) for part in systems.values() for row in part]
    return table.jobs_of(rows, seeds, sections, lambda row: set_hash[needed(row, sections)])


def corpus_of(sections: Sections, dialogues: bool) -> CorpusConfig:
    """The corpus, or the same with dialogues of two voices."""
    if not dialogues:
        return sections.corpus
    synthetic = sections.corpus.synthetic.model_copy(update={"dialogue_turns": TURNS})
    return sections.corpus.model_copy(update={"name": f"{sections.corpus.name}-dialogues", "synthetic": synthetic})


def packed(sections: Sections, wanted: Iterable[Needed], processes: int, report: Reporter) -> dict[Needed, str]:
    """Hash of each training set; corpora and annotations are made if they are missing."""
    hashes, prints = {}, {}
    for dialogues, kind in sorted(set(wanted)):
        corpus = corpus_of(sections, dialogues)
        if dialogues not in prints:
            build(corpus, Lake(sections.lake), lambda done, total: report("corpus", done, total))
            prints[dialogues], _ = annotate(sections.lake, corpus.name, sections.annotate, processes, report)
        model, _ = sections.changed({"encoder": {"kind": kind}}, {})
        hashes[dialogues, kind] = table.pack_corpus(sections, corpus.name, prints[dialogues], report, model)
    return hashes


def main(arguments: list[str] | None = None) -> int:
    """Build, annotate, train what is missing, print the table and write the page."""
    options = table.options_of("benchmarks.quality.systems", __doc__, ROWS, "systems").parse_args(arguments)
    report, sections, systems = Reporter(), table.configuration(options, *LOG_MELS), chosen(options.rows)
    wanted = [needed(row, sections) for rows in systems.values() for row in rows]
    jobs = jobs_of(systems, options.seeds, sections, packed(sections, wanted, options.processes, report))
    table.train_missing(jobs, options.processes, report)
    page = write_page(
        Path(options.out) / "systems",
        "Systems on planted speech",
        NOTE,
        {system: [Scored.of(row, jobs) for row in rows] for system, rows in systems.items()},
        classes=CLASSES,
        ceiling=ceiling(Lake(sections.lake), sections.corpus.name),
        seconds=time.monotonic() - report.began,
        processes=options.processes,
    )
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
