"""The lake: tables on local disk or s3:// (through fsspec), written as whole files only.

Layout under the root::

    utterances/<corpus>/part-<version>-<number>-of-<files>.parquet
    annotations/<stage>/<fingerprint>/part-*.parquet
    norms/<hash>.json · training_sets/<hash>/ · checkpoints/<run>/ · scores/<name>/*.parquet
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import tenacity

from emoray.config import Section
from emoray.errors import LakeError
from emoray.lake.atomic import atomic_file
from emoray.lake.storage import connect, translate_storage_errors
from emoray.schema import UTTERANCES, validate_utterances

# Arrow's own allocators keep freed memory; a process that reads tables in parts should return it.
pa.set_memory_pool(pa.system_memory_pool())

T = TypeVar("T")

#: A file of an utterances table: its version, and how many files this version has.
VERSIONED = re.compile(r"part-(\d{20})-\d{5}-of-(\d{5})\.parquet")
#: Prefix of the names of files that emoray.lake.compaction wrote.
MERGED = "part-merged-"
#: Key in such a file's schema metadata: names of the files that are replaced now that it exists, as JSON.
REPLACES = b"emoray.replaces"
#: Rows that a reader of a table has in memory at a time, at least.
ROW_GROUP = 8192
#: How often a read is tried if a file that was listed has been replaced meanwhile.
READ_ATTEMPTS = 5


class LakeConfig(Section):
    """Where tables and artefacts live.

    Attributes:
        root: Local folder or `s3://bucket/prefix`.
        storage_options: Options for the fsspec file system (for s3 for example `{endpoint_url: …}`); credentials are
            better left to the environment.
    """

    root: str
    storage_options: dict[str, Any]


class Lake:
    """Tables and artefacts under one root; safe to pickle to a Ray worker.

    Attributes:
        config: As given, but with an absolute root, for processes with another working directory.
        root: The root, absolute.
    """

    def __init__(self, config: LakeConfig) -> None:
        options = dict(config.storage_options)
        if config.root.startswith("s3://") and os.environ.get("AWS_ENDPOINT_URL"):
            options.setdefault("endpoint_url", os.environ["AWS_ENDPOINT_URL"])
        if config.root.startswith("s3://"):
            # Parquet readers ask for exactly the ranges that they need; s3fs would fetch 50 MiB around each.
            options.setdefault("default_cache_type", "none")
        root = config.root if "://" in config.root else os.path.abspath(os.path.expanduser(config.root))
        self.fs, self._prefix = connect(root, options)
        self.root = root.rstrip("/")
        self.config = config.model_copy(update={"root": self.root})
        self.is_local = "://" not in root or root.startswith("file://")

    def path(self, *parts: str) -> str:
        """Path below the root, as the file system expects it."""
        return "/".join([self._prefix.rstrip("/"), *parts])

    def uri(self, *parts: str) -> str:
        """Address below the root, with its scheme, as users and other processes expect it."""
        return "/".join([self.root, *parts])

    # --- whole files -----------------------------------------------------------------------------------------------

    def write_bytes(self, data: bytes, *parts: str) -> str:
        """Write a file whole or not at all: temporary file and rename on a disk, one PUT on an object store.

        Returns:
            The address of the file.

        Raises:
            TransientError: The storage is throttled or unavailable, and stayed so.
            LakeError: It cannot be written there.
        """
        final = self.path(*parts)
        with translate_storage_errors("write", self.uri(*parts)):
            if not self.is_local:
                self.fs.pipe_file(final, data)
                return self.uri(*parts)
            with atomic_file(final) as draft, open(draft, "wb") as file:
                file.write(data)
        return self.uri(*parts)

    def read_bytes(self, *parts: str) -> bytes:
        """Read a whole file.

        Raises:
            TransientError: The storage is throttled or unavailable, and stayed so.
            LakeError: It does not exist or must not be read.
        """
        try:
            with translate_storage_errors("read", self.uri(*parts)):
                return bytes(self.fs.cat_file(self.path(*parts)))
        except FileNotFoundError:
            raise LakeError("no such file in the lake", where=self.uri(*parts), kind="missing_file") from None

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder exists now (listings are not cached)."""
        self.fs.invalidate_cache()
        with translate_storage_errors("read", self.uri(*parts)):
            return bool(self.fs.exists(self.path(*parts)))

    def write_json(self, value: Any, *parts: str) -> str:
        """Write a JSON document whole."""
        return self.write_bytes(
            (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(), *parts
        )

    def read_json(self, *parts: str) -> Any:
        """Read a JSON document."""
        return json.loads(self.read_bytes(*parts))

    def write_parquet(self, table: pa.Table, *parts: str) -> str:
        """Write one Parquet file whole."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
        return self.write_bytes(buffer.getvalue(), *parts)

    def list_files(self, *parts: str, suffix: str = ".parquet") -> list[str]:
        """Paths (as the file system expects them) of a folder's finished files, by name; none if it is missing."""
        names = (entry["name"] for entry in self._listing(*parts))
        return sorted(name for name in names if name.endswith(suffix) and not name.rsplit("/", 1)[-1].startswith("."))

    def list_folders(self, *parts: str) -> list[str]:
        """Names of a folder's folders; none if it is missing."""
        folders = (entry["name"] for entry in self._listing(*parts) if entry["type"] == "directory")
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in folders)
        return sorted(name for name in names if not name.startswith("."))

    def _listing(self, *parts: str) -> list[dict[str, Any]]:
        self.fs.invalidate_cache()
        try:
            with translate_storage_errors("list", self.uri(*parts)):
                return list(self.fs.ls(self.path(*parts), detail=True))
        except FileNotFoundError:
            return []

    def retry_if_files_vanish(self, read: Callable[[], T], *parts: str) -> T:
        """Call a function that lists and reads a folder's files; call it again if one of them is replaced meanwhile.

        Raises:
            TransientError: The storage is throttled or unavailable, and stayed so.
            LakeError: A file is damaged, or must not be read.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(FileNotFoundError),
            stop=tenacity.stop_after_attempt(READ_ATTEMPTS),
            reraise=True,
        )
        try:
            with translate_storage_errors("read", self.uri(*parts)):
                return retrying(read)
        except FileNotFoundError as error:
            raise LakeError(
                f"files of this table are removed faster than they are read ({error})",
                where=self.uri(*parts),
                remedy="Find out what rewrites it, then run the same command again",
                kind="table_in_flux",
            ) from error
        except pa.ArrowInvalid as error:
            raise LakeError(
                f"a file of this table is damaged: {error}",
                where=self.uri(*parts),
                remedy="Remove that file: what it held counts as not done and is computed again",
                kind="damaged_file",
            ) from error

    # --- tables ----------------------------------------------------------------------------------------------------

    def dataset(self, *parts: str, schema: pa.Schema | None = None) -> pads.Dataset | None:
        """The Parquet files of a folder, without replaced ones, as one lazy dataset; None if there are none."""

        def read() -> tuple[list[str], set[str]]:
            files = self.list_files(*parts)
            return files, set(self.replaced(files))

        files, replaced = self.retry_if_files_vanish(read, *parts)
        files = [path for path in files if path.rsplit("/", 1)[-1] not in replaced]
        return pads.dataset(files, filesystem=self.fs, format=self._format(), schema=schema) if files else None

    def replaced(self, files: Sequence[str]) -> dict[str, str]:
        """Which of a folder's files have their rows in another file now (emoray.lake.compaction).

        Returns:
            Name of the file → path of the last one that replaces it.

        Raises:
            FileNotFoundError: A file was removed since it was listed.
        """
        found: dict[str, str] = {}
        for path in files:
            if path.rsplit("/", 1)[-1].startswith(MERGED):
                with self.fs.open(path) as file:
                    names = (pq.read_schema(file).metadata or {}).get(REPLACES, b"[]")
                found |= dict.fromkeys(json.loads(names), path)
        return found

    def write_utterances(self, corpus: str, table: pa.Table, *, rows_per_file: int = 100_000) -> None:
        """Replace a corpus's utterances table (validated first): readers see the old one until the new one is whole."""
        validate_utterances(table)
        old = self.list_files("utterances", corpus)
        starts = range(0, table.num_rows, rows_per_file)
        version = f"{time.time_ns():020d}"
        for number, start in enumerate(starts):
            name = f"part-{version}-{number:05d}-of-{len(starts):05d}.parquet"
            self.write_parquet(table.slice(start, rows_per_file), "utterances", corpus, name)
        for path in old:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(path)

    def _utterance_files(self, corpus: str) -> list[str]:
        """The files of the newest complete version; files of other names count as the oldest version."""
        versions: dict[str, list[str]] = collections.defaultdict(list)
        expected: dict[str, int] = {"": 1}
        for path in self.list_files("utterances", corpus):
            match = VERSIONED.fullmatch(path.rsplit("/", 1)[-1])
            version = match[1] if match else ""
            versions[version].append(path)
            if match:
                expected[version] = int(match[2])
        complete = [version for version, paths in versions.items() if len(paths) >= expected[version]]
        return versions[max(complete)] if complete else []

    def utterances(self, corpus: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A corpus's utterances table.

        Raises:
            LakeError: The corpus was not imported into this lake.
        """
        names = list(columns) if columns else None
        return self.retry_if_files_vanish(
            lambda: self.utterances_dataset(corpus).to_table(columns=names), "utterances", corpus
        )

    def utterances_dataset(self, corpus: str) -> pads.Dataset:
        """A corpus's utterances table as it is now, to be read in parts (see `retry_if_files_vanish`).

        Raises:
            LakeError: The corpus was not imported into this lake.
        """
        files = self.retry_if_files_vanish(lambda: self._utterance_files(corpus), "utterances", corpus)
        if not files:
            raise LakeError(
                f"corpus {corpus!r} is not in this lake (it has: {', '.join(self.corpora()) or 'none'})",
                where=self.root,
                remedy=f"Import it first: emoray corpus build --set corpus.name={corpus}",
                kind="missing_corpus",
            )
        return pads.dataset(files, filesystem=self.fs, format=self._format(), schema=UTTERANCES)

    def _format(self) -> pads.ParquetFileFormat:
        """Column chunks are fetched together where each request is slow; on a disk that would only take memory."""
        scan = pads.ParquetFragmentScanOptions(pre_buffer=not self.is_local)
        return pads.ParquetFileFormat(default_fragment_scan_options=scan)

    def corpora(self) -> list[str]:
        """Names of the corpora in this lake."""
        return self.list_folders("utterances")

    # --- stage tables: the only record of completed work -----------------------------------------------------------

    def append_stage(self, stage: str, fingerprint: str, table: pa.Table) -> str:
        """Add one file of outcomes to a stage table."""
        return self.write_parquet(table, "annotations", stage, fingerprint, f"part-{uuid.uuid4().hex}.parquet")

    def stage_outcomes(self, stage: str, fingerprint: str, columns: Sequence[str] | None = None) -> pl.LazyFrame | None:
        """A stage table with one row per utterance_id (a value wins over an error), or None if nothing was written yet.

        Of utterance_id, value, error and elapsed_s it has `columns`, utterance_id always.
        """
        dataset = self.dataset("annotations", stage, fingerprint)
        if dataset is None:
            return None
        wanted = list(dict.fromkeys(["utterance_id", *(columns or dataset.schema.names)]))
        failed = pl.col("error").is_not_null().alias("_failed")
        frame = pl.scan_pyarrow_dataset(dataset).select(*(pl.col(name) for name in wanted), failed)
        return (
            frame.sort("_failed", maintain_order=True)
            .unique("utterance_id", keep="first", maintain_order=True)
            .drop("_failed")
        )

    def read_stage(self, stage: str, fingerprint: str, columns: Mapping[str, pads.Expression]) -> pa.Table | None:
        """`columns` (by their new names) of a stage table, repeats included, while others may rewrite it.

        None if nothing was written yet.
        """

        def read() -> pa.Table | None:
            dataset = self.dataset("annotations", stage, fingerprint)
            return None if dataset is None else dataset.to_table(columns=dict(columns))

        return self.retry_if_files_vanish(read, "annotations", stage, fingerprint)

    @contextlib.contextmanager
    def scratch(self, purpose: str) -> Iterator[str]:
        """A folder below the root for intermediate files, removed in any case. Yields its relative path."""
        name = f"work/{purpose}-{uuid.uuid4().hex[:12]}"
        if self.is_local:
            os.makedirs(self.path(name), exist_ok=True)
        try:
            yield name
        finally:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(self.path(name), recursive=True)
