"""lake rehome: a lake that was moved or copied names itself again, in tables and in its MLflow store.

Addresses in a lake are absolute. A copy would read the original's audio, and its store would write artifacts into the
original (`connect` refuses that). Rewritten are addresses below the lake's former root; others stay. Doing it twice
changes nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import RenderableType
from rich.text import Text

from emoray.errors import InputError
from emoray.lake.tables import Lake
from emoray.registry.config import LOCAL_ARTIFACTS, TrackingConfig, tracking_uri

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: Where MLflow's SQLite store keeps addresses of artifacts.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_ADDRESS = "audio_uri"


@dataclass(frozen=True)
class RehomeResult:
    """What was rewritten.

    Attributes:
        before: The lake's former root.
        root: Its root now.
        tables: Name of a table → addresses that were rewritten.
        store: Address of the store; None where MLflow is not in the lake, whose addresses are not ours to rewrite.
        rows: Addresses that were rewritten in the store.
    """

    before: str
    root: str
    tables: Mapping[str, int]
    store: str | None
    rows: int


def run(config: Config, *, before: str | None = None) -> RehomeResult:
    """Rewrite the addresses of a lake that lay elsewhere.

    Args:
        before: Where it lay; by default what its MLflow store says.

    Raises:
        InputError: Its former place is not known (`unknown_home`).
    """
    lake = Lake(config.lake)
    store = _own_store(config.tracking, lake)
    former = before.rstrip("/") if before is not None else _former(lake, store)
    tables = _utterances(lake, former) | _scores(lake, former) if former != lake.root else {}
    rows = 0 if store is None or former == lake.root else _rewrite_store(store, former, lake.root)
    return RehomeResult(former, lake.root, tables, store, rows)


def _own_store(tracking: TrackingConfig, lake: Lake) -> str | None:
    """Path of the SQLite file of the store in the lake, if that is where MLflow is."""
    path = lake.path("mlflow.db")
    own = lake.is_local and tracking_uri(tracking, lake) == f"sqlite:///{path}"
    return path if own and os.path.exists(path) else None


def _former(lake: Lake, store: str | None) -> str:
    """The only other lake that the store names; the lake's own root where it names no other."""
    found: set[str] = set()
    if store is not None:
        with sqlite3.connect(store) as connection:
            rows = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        suffix = f"/{LOCAL_ARTIFACTS}"
        found = {one.removesuffix(suffix) for (one,) in rows if one and one.endswith(suffix)}
    if found == {lake.root}:
        return lake.root
    others = sorted(found - {lake.root})
    if len(others) != 1:
        raise InputError(
            f"it is not known where this lake lay ({' or '.join(others) or 'it has no MLflow store'})",
            where=lake.root,
            remedy="Say it: emoray lake rehome --before /the/former/lake",
            kind="unknown_home",
        )
    return others[0]


def _utterances(lake: Lake, former: str) -> dict[str, int]:
    changed = {}
    for corpus in lake.corpora():
        table, count = _moved(lake.utterances(corpus), former, lake.root)
        if count:
            lake.write_utterances(corpus, table)
            changed[f"utterances/{corpus}"] = count
    return changed


def _scores(lake: Lake, former: str) -> dict[str, int]:
    changed: dict[str, int] = {}
    for name in lake.list_folders("scores"):
        for path in lake.list_files("scores", name):
            file = path.rsplit("/", 1)[-1]
            with lake.fs.open(path) as opened:
                found = pq.read_table(opened)
            if _ADDRESS in found.column_names:
                table, count = _moved(found, former, lake.root)
                if count:
                    lake.write_parquet(table, "scores", name, file)
                    changed[f"scores/{name}"] = changed.get(f"scores/{name}", 0) + count
    return changed


def _moved(table: pa.Table, former: str, root: str) -> tuple[pa.Table, int]:
    """The table with addresses below the new root, and how many changed."""
    old = table[_ADDRESS]
    inside = pc.fill_null(pc.starts_with(old, f"{former}/"), False)
    new = pc.if_else(inside, pc.binary_join_element_wise(root, pc.utf8_slice_codeunits(old, len(former)), ""), old)
    place = table.column_names.index(_ADDRESS)
    return table.set_column(place, table.schema.field(place), new.cast(old.type)), int(pc.sum(inside).as_py() or 0)


def _rewrite_store(path: str, former: str, root: str) -> int:
    """Rewrite addresses in one transaction. Returns how many."""
    count = 0
    with sqlite3.connect(path) as connection:
        for table, column in _COLUMNS:
            for scheme in ("", "file://"):
                old, new = f"{scheme}{former}", f"{scheme}{root}"
                done = connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )
                count += done.rowcount
    connection.close()
    return count


def render(result: RehomeResult) -> RenderableType:
    """What was done, as it is printed."""
    if result.before == result.root:
        return Text(f"The lake at {result.root} is at home: nothing to rewrite.")
    lines = [f"Addresses below {result.before} are below {result.root} now:"]
    lines += [f"  {name}: {count}" for name, count in result.tables.items()]
    lines.append(
        f"  {result.store}: {result.rows}"
        if result.store is not None
        else "MLflow is not in the lake: its addresses stayed as they are."
    )
    return Text("\n".join(lines))
