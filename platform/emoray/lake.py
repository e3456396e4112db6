"""The lake: tables on local disk or s3://, through one door (fsspec), written as whole files only.

Layout under the root::

    utterances/<corpus>/part-*.parquet
    annotations/<stage>/<fingerprint>/part-*.parquet
    norms/<hash>.json · training_sets/<hash>/ · checkpoints/<run>/ · scores/<name>/
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from emoray.config import Section
from emoray.errors import LakeError
from emoray.schema import UTTERANCES, validate_utterances


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

    Args:
        config: Root and storage options.
    """

    def __init__(self, config: LakeConfig) -> None:
        options = dict(config.storage_options)
        if config.root.startswith("s3://") and os.environ.get("AWS_ENDPOINT_URL"):
            options.setdefault("endpoint_url", os.environ["AWS_ENDPOINT_URL"])
        root = config.root if "://" in config.root else os.path.abspath(os.path.expanduser(config.root))
        self.fs, self._prefix = fsspec.core.url_to_fs(root, **options)
        self.root = root.rstrip("/")
        self.is_local = "://" not in root or root.startswith("file://")

    def path(self, *parts: str) -> str:
        """Path below the root, as the file system wants it."""
        return "/".join([self._prefix.rstrip("/"), *parts])

    def uri(self, *parts: str) -> str:
        """Address below the root, as a user or another process wants it (with its scheme)."""
        return "/".join([self.root, *parts])

    # --- whole files -----------------------------------------------------------------------------------------------

    def write_bytes(self, data: bytes, *parts: str) -> str:
        """Write a file whole or not at all: temporary and rename on a disk, one PUT on an object store.

        Returns:
            The address of the file.
        """
        final = self.path(*parts)
        if not self.is_local:
            self.fs.pipe_file(final, data)
            return self.uri(*parts)
        temporary = os.path.join(os.path.dirname(final), f".{os.path.basename(final)}.{uuid.uuid4().hex}.tmp")
        try:
            os.makedirs(os.path.dirname(final), exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise LakeError(
                f"cannot write: {error.strerror}", where=final, remedy="Free space or mend the permissions"
            ) from error
        return self.uri(*parts)

    def read_bytes(self, *parts: str) -> bytes:
        """Read a whole file.

        Raises:
            LakeError: It does not exist.
        """
        try:
            return bytes(self.fs.cat_file(self.path(*parts)))
        except FileNotFoundError:
            raise LakeError("no such file in the lake", where=self.uri(*parts), kind="missing_file") from None

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there now (listings are not cached)."""
        self.fs.invalidate_cache()
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
        pq.write_table(table, buffer, compression="zstd")
        return self.write_bytes(buffer.getvalue(), *parts)

    def list_files(self, *parts: str, suffix: str = ".parquet") -> list[str]:
        """Paths (as the file system wants them) of a folder's finished files, in name order; none if it is missing."""
        self.fs.invalidate_cache()
        try:
            names = self.fs.ls(self.path(*parts), detail=False)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.endswith(suffix) and not name.rsplit("/", 1)[-1].startswith("."))

    # --- tables ----------------------------------------------------------------------------------------------------

    def dataset(self, *parts: str, schema: pa.Schema | None = None) -> pads.Dataset | None:
        """The Parquet files of a folder as one lazy dataset, or None if there are none."""
        files = self.list_files(*parts)
        return pads.dataset(files, filesystem=self.fs, format="parquet", schema=schema) if files else None

    def write_utterances(self, corpus: str, table: pa.Table, *, rows_per_file: int = 100_000) -> None:
        """Replace a corpus's utterances table (validated first)."""
        validate_utterances(table)
        old = self.list_files("utterances", corpus)
        mark = uuid.uuid4().hex[:8]
        for number, start in enumerate(range(0, table.num_rows, rows_per_file)):
            self.write_parquet(
                table.slice(start, rows_per_file), "utterances", corpus, f"part-{mark}-{number:05d}.parquet"
            )
        for path in old:
            self.fs.rm_file(path)

    def utterances(self, corpus: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A corpus's utterances table.

        Raises:
            LakeError: The corpus was not imported into this lake.
        """
        dataset = self.dataset("utterances", corpus, schema=UTTERANCES)
        if dataset is None:
            raise LakeError(
                f"corpus {corpus!r} is not in this lake (it has: {', '.join(self.corpora()) or 'none'})",
                where=self.root,
                remedy=f"Import it first: emoray corpus build --set corpus.name={corpus}",
                kind="missing_corpus",
            )
        return dataset.to_table(columns=list(columns) if columns else None)

    def corpora(self) -> list[str]:
        """Names of the corpora in this lake."""
        self.fs.invalidate_cache()
        try:
            return sorted(
                path.rstrip("/").rsplit("/", 1)[-1] for path in self.fs.ls(self.path("utterances"), detail=False)
            )
        except FileNotFoundError:
            return []

    # --- stage tables: the only record of what is done -------------------------------------------------------------

    def append_stage(self, stage: str, fingerprint: str, table: pa.Table) -> str:
        """Add one whole file of outcomes to a stage table."""
        return self.write_parquet(table, "annotations", stage, fingerprint, f"part-{uuid.uuid4().hex}.parquet")

    def stage_outcomes(self, stage: str, fingerprint: str, columns: Sequence[str] | None = None) -> pl.LazyFrame | None:
        """A stage table with one row per utterance_id (a value wins over an error), or None if nothing was written yet.

        Args:
            stage: Name of the stage.
            fingerprint: Fingerprint of the stage and all that it builds on.
            columns: Which of utterance_id, value, error, elapsed_s to read (utterance_id always comes along).
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

    def done_ids(self, stage: str, fingerprint: str, *, with_failed: bool = True) -> set[str]:
        """Ids that a stage table already answers for.

        Args:
            stage: Name of the stage.
            fingerprint: Its fingerprint.
            with_failed: Count recorded errors as done too (until `--retry-failed`).
        """
        dataset = self.dataset("annotations", stage, fingerprint)
        if dataset is None:
            return set()
        keep = None if with_failed else pads.field("error").is_null()
        return set(dataset.to_table(columns=["utterance_id"], filter=keep)["utterance_id"].to_pylist())

    def compact_stage(self, stage: str, fingerprint: str) -> int:
        """Rewrite a stage table as one file with one row per id. Safe beside readers and writers of other files.

        Returns:
            How many files became one.
        """
        files = self.list_files("annotations", stage, fingerprint)
        if len(files) < 2:
            return 0
        schema = pq.read_schema(self.fs.open(files[0]))
        frame = pl.scan_pyarrow_dataset(pads.dataset(files, filesystem=self.fs, format="parquet"))
        failed = pl.col("error").is_not_null()
        kept = (
            frame.sort(failed, maintain_order=True).unique("utterance_id", keep="first", maintain_order=True).collect()
        )
        self.append_stage(stage, fingerprint, kept.to_arrow().cast(schema))
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(path)
        return len(files)

    @contextlib.contextmanager
    def scratch(self, purpose: str) -> Iterator[str]:
        """A folder below the root for intermediate files, removed whatever happens. Yields its relative path."""
        name = f"work/{purpose}-{uuid.uuid4().hex[:12]}"
        if self.is_local:
            os.makedirs(self.path(name), exist_ok=True)
        try:
            yield name
        finally:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(self.path(name), recursive=True)


def rows_to_outcomes(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Outcome rows as a table of a stage's schema (see `emoray.schema.stage_schema`)."""
    return pa.Table.from_pylist(list(rows), schema=schema)
