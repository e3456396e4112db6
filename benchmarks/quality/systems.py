"""The table of systems on planted speech: every model and ablation, three seeds each.

    python -m benchmarks.quality.systems [--rows ROW …] [--set section.key=value …] [--lake FOLDER]

CCC of valence, arousal, dominance and their mean, or UA and WA, with intervals, and what a system gains over the same
without one of its parts, paired. Rows are trained as `benchmarks.quality.rows` says: in process, on packed features. A
second run trains what is missing, so it may be killed at any time. The corpus is synthetic: this tests machinery.

The whole took 65 min on two cores, corpus and annotation (7) included, the first 26 beside another benchmark.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quality.annotate import annotate
from benchmarks.quality.page import Scored, write_systems
from benchmarks.quality.rows import Job, Reporter, Sections, configuration, parser, train_missing

from emoray.config import merge
from emoray.corpora import CorpusConfig, build, ceiling
from emoray.lake.tables import Lake
from emoray.models.build import WITHOUT_GRADIENT, frontend
from emoray.models.config import ModelConfig
from emoray.training.pack import pack

RESULTS = Path(__file__).parents[1] / "results"

#: The emotions of the synthetic corpus, which follow from valence and arousal.
CLASSES = ["anger", "calm", "happiness", "neutral", "sadness"]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: What it is called.
        model: What differs from the preset's model.
        train: What differs from the preset's training, and from `EPOCHS`.
        under: Name of the row that it is compared with, which is the same with one more or another part.
        classes: Trained on classes alone, and judged by UA and WA.
        dialogues: On the corpus of dialogues, in which labels carry over from turn to turn.
    """

    name: str
    model: Mapping[str, Any]
    train: Mapping[str, Any] = field(default_factory=dict)
    under: str | None = None
    classes: bool = False
    dialogues: bool = False


#: Turns of a dialogue, where there are any.
TURNS = 10
#: Half of the preset's.
EPOCHS = {"epochs": 10}
#: A clip of 3 s costs MSF-SER 7 ms of a core, forward and backward, CNN14 a hundred: few epochs, small batches for more
#: steps in them, and half of a clip at a time. Evaluation hears the whole.
CNN14: dict[str, Any] = {"encoder": {"kind": "cnn14"}, "granularities": ["gs"]}
CNN14_TRAIN: dict[str, Any] = {
    "epochs": 2,
    "plan": {"batch_size": 16},
    "augment": {"crop_s": 1.5, "modality_dropout": 0.0},
}
CATEGORICAL = {"objective": {"ccc": 0.0, "category": 1.0, "region": 0.0}}
#: As published but for fewer epochs, and 4 dialogues a batch instead of 20, for more steps in them.
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
    """The systems with the rows of these names alone, or all; those that are left without a row are left out."""
    picked = {system: tuple(row for row in rows if not names or row.name in names) for system, rows in SYSTEMS.items()}
    return {system: rows for system, rows in picked.items() if rows}


#: Which training set a row needs: whether of dialogues, and the kind of encoder.
Needed = tuple[bool, str]


def needed(row: Row, sections: Sections) -> Needed:
    """The training set that a row needs."""
    return row.dialogues, str(row.model.get("encoder", {}).get("kind", sections.model.encoder.kind))


def job_of(row: Row, seed: int, sections: Sections, set_hash: Mapping[Needed, str]) -> Job:
    """The job that trains a row.

    Args:
        row: The row.
        seed: Of its training.
        sections: What the row's changes are made to.
        set_hash: The training sets.
    """
    model, train = sections.changed(row.model, {**EPOCHS, **row.train, "seed": seed})
    return Job(
        row=row.name,
        seed=seed,
        lake=sections.lake,
        set_hash=set_hash[needed(row, sections)],
        recognised_hash=None,
        model=model,
        train=train,
        launch=sections.launch,
    )


def jobs_of(
    systems: Mapping[str, Sequence[Row]], seeds: int, sections: Sections, set_hash: Mapping[Needed, str]
) -> list[Job]:
    """All jobs, seed by seed, so that a run cut short has whole tables of fewer seeds; what no seed changes, once."""
    rows = [row for part in systems.values() for row in part]
    return [
        job_of(row, seed, sections, set_hash)
        for seed in range(seeds)
        for row in rows
        if seed == 0 or row.model["name"] not in WITHOUT_GRADIENT
    ]


def spoken(sections: Sections, dialogues: bool) -> CorpusConfig:
    """The corpus, or its like in which two voices speak in turn."""
    if not dialogues:
        return sections.corpus
    synthetic = sections.corpus.synthetic.model_copy(update={"dialogue_turns": TURNS})
    return sections.corpus.model_copy(update={"name": f"{sections.corpus.name}-dialogues", "synthetic": synthetic})


def packed(sections: Sections, wanted: Iterable[Needed], processes: int, report: Reporter) -> dict[Needed, str]:
    """Hash of each training set; corpora and annotations are made as far as they are not there."""
    lake, hashes, prints = Lake(sections.lake), {}, {}
    for dialogues, kind in sorted(set(wanted)):
        corpus = spoken(sections, dialogues)
        if dialogues not in prints:
            build(corpus, lake, lambda done, total: report("corpus", done, total))
            prints[dialogues], _ = annotate(sections.lake, corpus.name, sections.annotate, processes, report)
        model: ModelConfig = sections.changed({"encoder": {"kind": kind}}, {})[0]
        hashes[dialogues, kind] = pack(
            lake,
            corpus.name,
            prints[dialogues],
            frontend=frontend(model.encoder),
            audio=sections.annotate.audio,
            text_width=model.text_width,
            shard_rows=sections.launch.shard_rows,
            storage_options=sections.lake.storage_options,
            progress=lambda done, total: report("pack", done, total),
        )
    return hashes


def main(arguments: list[str] | None = None) -> int:
    """Build, annotate, train what is missing, print the table and write the page."""
    summary = (__doc__ or "").splitlines()[0]
    options = parser("python -m benchmarks.quality.systems", summary, list(ROWS), "systems", str(RESULTS)).parse_args(
        arguments
    )
    report, sections, systems = Reporter(), configuration(options), chosen(options.rows)
    wanted = [needed(row, sections) for rows in systems.values() for row in rows]
    jobs = jobs_of(systems, options.seeds, sections, packed(sections, wanted, options.processes, report))
    train_missing(jobs, options.processes, report)
    scored = {
        system: [Scored.of(row.name, [job for job in jobs if job.row == row.name], row.under) for row in rows]
        for system, rows in systems.items()
    }
    page = write_systems(
        Path(options.out),
        scored,
        classes=CLASSES,
        ceiling=ceiling(Lake(sections.lake), sections.corpus.name),
        seconds=time.monotonic() - report.began,
        processes=options.processes,
    )
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
