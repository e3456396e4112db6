"""Which annotations of a corpus are current: fingerprints and the norms they rest on, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from emoray.digest import digest
from emoray.errors import InputError, LakeError
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray.stages.norms import Norms

if TYPE_CHECKING:
    from emoray_jobs.config import Config


#: Stages that norms are fitted from.
NORMS_READ = ("prosody", "transcribe")


@dataclass(frozen=True)
class State:
    """Which annotations of a corpus are current.

    Attributes:
        fingerprints: Fingerprint of each stage.
        norms: The fitted norms.
        norms_hash: Their hash.
    """

    fingerprints: dict[str, str]
    norms: Norms
    norms_hash: str


def state(config: Config, lake: Lake) -> State:
    """The current annotations of the configured corpus, without Ray.

    Raises:
        LakeError: The corpus was not annotated with this configuration.
    """
    norms = load_norms(config, lake)
    if norms is None:
        raise LakeError(
            f"corpus {config.corpus.name!r} has no annotations for this configuration",
            where=lake.root,
            remedy="Make them: emoray annotate",
            kind="not_annotated",
        )
    return State(pipeline.fingerprints(config.annotate, norms.hash), norms, norms.hash)


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
            raise InputError(f"the corpus has no split {split!r}", remedy=f"It has: {', '.join(known) or 'none'}")
    return utterances.filter(pc.is_in(utterances["split"], value_set=pa.array(splits)))


def load_norms(config: Config, lake: Lake) -> Norms | None:
    """The norms that were fitted for the configured corpus and audio stages; None if there are none yet."""
    pointer = _norms_pointer(config)
    if not lake.exists(*pointer):
        return None
    return Norms.from_json(lake.read_json("norms", f"{lake.read_json(*pointer)['norms']}.json"))


def _norms_pointer(config: Config) -> tuple[str, ...]:
    """Where it is kept which norms a corpus has; the same audio stages and options find the same norms again."""
    prints = pipeline.fingerprints(config.annotate, None)
    document = {
        "audio": {name: prints[name] for name in NORMS_READ},
        "norms": config.annotate.norms.model_dump(mode="json"),
    }
    return "norms", "current", f"{config.corpus.name}-{digest(document)}.json"
