"""registry prune: versions that nobody needs, with their files, and checkpoints that no version or run names.

Without `yes` it only says what would go.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from emoray.lake.tables import Lake
from emoray.registry.publish import prune
from emoray.registry.tracking import Tracking, connect
from emoray.registry.versions import all_versions
from emoray_jobs.progress import spinner
from emoray_jobs.protocol.trial import OUTCOME

if TYPE_CHECKING:
    from emoray_jobs.config import Config

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Item:
    """Something that goes, or stays.

    Attributes:
        what: Its name.
        why: The reason.
        size_bytes: Size of its files; None where they are not on a disk of this machine.
    """

    what: str
    why: str
    size_bytes: int | None = None


@dataclass(frozen=True)
class PruneResult:
    """What may go or is gone.

    Attributes:
        model_name: The registered model.
        kept: Versions that stay.
        gone: What goes.
        done: Whether it is gone already.
    """

    model_name: str
    kept: tuple[Item, ...]
    gone: tuple[Item, ...]
    done: bool


def run(config: Config, *, yes: bool = False, keep: int | None = None) -> PruneResult:
    """Say what nobody needs, and remove it with `yes`.

    Args:
        keep: How many of the newest versions stay in any case; `tracking.keep_versions` if left out.
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    found = prune.plan(tracking, config.tracking.keep_versions if keep is None else keep)
    checkpoints = _checkpoints(lake, tracking, {one.run_id for one in found.versions})
    gone = [Item(f"version {one.version}", "no alias, never champion, not among the newest") for one in found.versions]
    gone += [
        Item(f"logged model {one.model_id}", "its versions are gone", prune.size_bytes(one.artifact_location))
        for one in found.models
    ]
    gone += [
        Item(f"shared files {one.info.run_name}", "no version names them", prune.size_bytes(one.info.artifact_uri))
        for one in found.files
    ]
    gone += [Item("/".join(where), why, _size(lake, where)) for where, why in checkpoints.items()]
    if yes:
        with spinner("removing"):
            prune.carry_out(tracking, found)
            for where in checkpoints:
                with contextlib.suppress(FileNotFoundError):
                    lake.fs.rm(lake.path(*where), recursive=True)
    kept = tuple(Item(f"version {one.version}", why) for one, why in found.kept)
    return PruneResult(tracking.model_name, kept, tuple(gone), yes)


def _checkpoints(lake: Lake, tracking: Tracking, doomed: set[str]) -> dict[tuple[str, ...], str]:
    """Folders below `checkpoints/` that nothing needs, and why.

    Of a finished run whose version stays only the steps go: baselines and record stay. A protocol's trials stay, and
    runs that can be resumed.
    """
    registered = {one.run_id for one in all_versions(tracking)} - doomed
    found: dict[tuple[str, ...], str] = {}
    for run in lake.list_folders("checkpoints"):
        if lake.exists("checkpoints", run, OUTCOME) or not lake.exists("checkpoints", run, "run.json"):
            continue
        record: dict[str, Any] = lake.read_json("checkpoints", run, "run.json")
        run_id = str(record["run_id"])
        if run_id in doomed:
            found["checkpoints", run] = "its version goes"
        elif run_id in registered:
            if "done" in record:
                steps = [name for name in lake.list_folders("checkpoints", run) if name.isdigit()]
                found |= {("checkpoints", run, step): "its version has the weights" for step in steps}
        elif not tracking.has_run(run_id):
            found["checkpoints", run] = "its MLflow run is gone"
        elif "done" in record:
            found["checkpoints", run] = "its version is gone"
    return found


def _size(lake: Lake, where: tuple[str, ...]) -> int:
    return int(lake.fs.du(lake.path(*where)))


def render(result: PruneResult) -> RenderableType:
    """What goes and what stays, as it is printed."""
    table = Table(
        title=f"{result.model_name}: {'removed' if result.done else 'would be removed'}", title_justify="left"
    )
    table.add_column("what")
    table.add_column("why")
    table.add_column("MiB", justify="right")
    for one in result.gone:
        table.add_row(one.what, one.why, "" if one.size_bytes is None else f"{one.size_bytes / MEBIBYTE:.1f}")
    size = sum(one.size_bytes or 0 for one in result.gone) / MEBIBYTE
    stays = ", ".join(f"{one.what.removeprefix('version ')} ({one.why})" for one in result.kept) or "none"
    lines = [f"Versions that stay: {stays}."]
    if not result.gone:
        return Text("\n".join([*lines, "Nothing to remove."]))
    lines.append(f"{'Freed' if result.done else 'Would free'}: {size:.1f} MiB on this machine's disks.")
    if not result.done:
        lines.append("Nothing was changed. To remove this: emoray registry prune --yes")
    return Group(table, Text("\n".join(lines)))
