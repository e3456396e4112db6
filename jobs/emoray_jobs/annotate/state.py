"""Which annotations of a corpus are current: fingerprints and the norms they rest on, without Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from emoray.digest import digest
from emoray.errors import InputError, LakeError
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray.stages.conditions import Condition, FittedCondition
from emoray.stages.config import AnnotateConfig
from emoray.stages.norms import Norms

#: Tag of an annotate run: digest of the fingerprints of its stages under the first condition.
ANNOTATIONS = "emoray.annotations"
#: Stages that norms are fitted from.
NORMS_READ = ("prosody", "transcribe")


@dataclass(frozen=True)
class State:
    """Which annotations of a corpus are current.

    Attributes:
        conditions: The conditions under which it is annotated; the first has the fingerprints and norms above.
    """

    fingerprints: dict[str, str]
    norms: Norms
    conditions: tuple[FittedCondition, ...]


def state(lake: Lake, corpus: str, annotate: AnnotateConfig) -> State:
    """The current annotations of a corpus, without Ray.

    Raises:
        LakeError: The corpus was not annotated with this configuration.
    """
    found = []
    for condition in pipeline.conditions(annotate):
        norms = load_norms(lake, corpus, norms_source(annotate, condition))
        if norms is None:
            raise LakeError(
                f"corpus {corpus!r} has no annotations for this configuration",
                where=lake.root,
                remedy="Make them: emoray annotate",
                kind="not_annotated",
            )
        prints = pipeline.fingerprints(pipeline.under(annotate, condition), norms.hash)
        found.append((FittedCondition(condition.name, prints, norms.hash), norms))
    first, norms = found[0]
    return State(first.fingerprints, norms, tuple(one for one, _ in found))


def norms_source(annotate: AnnotateConfig, condition: Condition) -> AnnotateConfig:
    """Which annotations the norms of a condition are fitted from: those with the first source of words."""
    return pipeline.under(annotate, dataclasses.replace(condition, transcript=annotate.transcribe.kind))


def select_splits(utterances: pa.Table, splits: Sequence[str]) -> pa.Table:
    """The utterances of some splits; all if none is named.

    Raises:
        InputError: The corpus has no such split.
    """
    if not splits:
        return utterances
    known = sorted(name for name in pc.unique(utterances["split"]).to_pylist() if name is not None)
    for split in splits:
        if split not in known:
            raise InputError(
                f"the corpus has no split {split!r}",
                remedy=f"It has: {', '.join(known) or 'none'}",
                kind="no_such_split",
            )
    return utterances.filter(pc.is_in(utterances["split"], value_set=pa.array(splits)))


def load_norms(lake: Lake, corpus: str, annotate: AnnotateConfig) -> Norms | None:
    """The norms that were fitted for a corpus and the configured audio stages; None if there are none yet."""
    pointer = norms_pointer(corpus, annotate)
    if not lake.exists(*pointer):
        return None
    return Norms.from_json(lake.read_json("norms", f"{lake.read_json(*pointer)['norms']}.json"))


def norms_pointer(corpus: str, annotate: AnnotateConfig) -> tuple[str, ...]:
    """Where it is kept which norms a corpus has; the same audio stages and options find the same norms again."""
    prints = pipeline.fingerprints(annotate, None)
    document = {
        "audio": {name: prints[name] for name in NORMS_READ},
        "norms": annotate.norms.model_dump(mode="json"),
    }
    return "norms", "current", f"{corpus}-{digest(document)}.json"
