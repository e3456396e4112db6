"""annotate --compact: fewer and whole stage tables, and what killed runs left behind removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from emoray.lake.compaction import Compaction, compact_stage, sweep
from emoray.lake.tables import Lake
from emoray_jobs.tables import titled_table

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: Scratch that nothing was written to for so long belongs to a run that was killed; a run that is alive after all makes
#: it again.
ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True)
class CompactResult:
    """What was tidied up.

    Attributes:
        abandoned: Scratch folders and unfinished files of killed runs that were removed.
        grace_s: How long replaced files stay.
    """

    tables: dict[tuple[str, str], Compaction]
    abandoned: int
    grace_s: float


def run(config: Config) -> CompactResult:
    """Compact every stage table of the lake. Runs of annotate and readers may continue meanwhile. It needs no Ray.

    Raises:
        LakeError: A file is damaged or cannot be written.
        TransientError: The storage is throttled or away.
    """
    lake = Lake(config.lake)
    grace_s = config.annotate.compact_grace_s
    tables = {
        (stage, fingerprint): compact_stage(lake, stage, fingerprint, grace_s=grace_s)
        for stage in lake.list_folders("annotations")
        for fingerprint in lake.list_folders("annotations", stage)
    }
    return CompactResult(tables, sweep(lake, ABANDONED_S), grace_s)


def render(result: CompactResult) -> RenderableType:
    """What was done, as it is printed."""
    figures = ("files", "now", "repeats dropped", "removed", "to be removed")
    table = titled_table("compacted stage tables", ("stage", "fingerprint"), figures)
    for (stage, fingerprint), one in result.tables.items():
        cells = (one.merged, one.into, one.repeats, one.removed, one.waiting)
        table.add_row(stage, fingerprint, *(f"{number:,}" for number in cells))
    waiting = sum(one.waiting for one in result.tables.values())
    later = f"{waiting:,} replaced files stay for readers that are under way; a --compact {result.grace_s:g} s from now"
    lines = [f"{later} removes them"] if waiting else []
    lines += [f"{result.abandoned:,} leftovers of killed runs removed"] if result.abandoned else []
    return Group(table, *lines)
