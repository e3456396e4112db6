"""Cut long recordings into utterances by voice activity; each recording is read once, in blocks, and its result stored.

The result is stored in a stage table, `annotations/segment/<fingerprint>`, by the recording's id: a build that is
killed or repeated processes only what is missing. Recordings that cannot be read are not stored, so that the next
build tries them again.
"""

from __future__ import annotations

import itertools
import logging
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from emoray.audio.activity import ActivityConfig, utterances, weights_version
from emoray.audio.io import AUDIO_HZ
from emoray.audio.stream import stream
from emoray.config import Section
from emoray.corpora import segment_rows
from emoray.digest import digest
from emoray.errors import EmorayError, InputError
from emoray.lake.tables import Lake
from emoray.schema import Row, stage_schema, utterances_table

log = logging.getLogger(__name__)

STAGE = "segment"
#: To be raised when the same recording and options give other utterances.
VERSION = 1
#: A kill loses at most this much work per worker, and the recordings in progress.
FLUSH_S = 10.0
NAMED = 5
SPANS = pa.list_(pa.struct([("start_ms", pa.int64()), ("end_ms", pa.int64())]))
#: Which sound a recording is, and what was found in it.
ADDRESS = ("audio_uri", "start_s", "end_s")
VALUE_TYPE = pa.struct(
    [
        ("audio_uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("spans", SPANS),
    ]
)


class VadConfig(Section):
    """Utterances by voice activity.

    Attributes:
        activity: When sound is speech; a pause of `min_silence_s` separates two utterances.
        pad_s: Sound kept before and after speech.
        max_utterance_s: Longer speech is cut where speech is least likely.
        workers: Recordings processed in parallel; does not change the result.
    """

    activity: ActivityConfig
    pad_s: float
    max_utterance_s: float
    workers: int

    @property
    def fingerprint(self) -> str:
        """Hash of all that the utterances of a recording depend on."""
        content = {
            "stage": STAGE,
            "version": VERSION,
            "model": weights_version(),
            "options": self.model_dump(mode="json", exclude={"workers"}),
        }
        return digest(content)


class SegmentConfig(Section):
    """Whether the rows of a manifest are utterances, or recordings to be cut into utterances.

    Attributes:
        kind: none: they are utterances | vad.
        vad: Options of that kind.
    """

    kind: Literal["none", "vad"]
    vad: VadConfig


@dataclass(frozen=True)
class Refused:
    """A recording that could not be read, with the error's kind and message."""

    recording_id: str
    kind: str
    message: str


@dataclass
class _Results:
    """Results so far: recording id → value of the stage table."""

    values: dict[str, Row]
    refused: list[Refused] = field(default_factory=list)


def split(
    name: str, recordings: pa.Table, config: VadConfig, lake: Lake, progress: Callable[[int, int], None]
) -> pa.Table:
    """Cut recordings (the rows of an utterances table) into utterances.

    An utterance's id is the recording's and the milliseconds at which it begins in the file. Speaker, labels and split
    are the recording's; of its transcript it has the words whose times fall into it.
    `utterances_meta/<name>-recordings.json` in the lake names the recordings that could not be read, and those without
    speech.

    Raises:
        InputError: No recording has speech that could be read.
        SchemaError: The table breaks its contract.
    """
    rows = recordings.to_pylist()
    results = _Results(_stored(lake, config.fingerprint, rows))
    todo = [row for row in rows if row["utterance_id"] not in results.values]
    with _one_thread_each():
        for done in _process_all(todo, config, lake, results):
            progress(len(rows) - len(todo) + done, len(rows))
    silent = [key for row in rows if (value := results.values.get(key := row["utterance_id"])) and not value["spans"]]
    _report(name, lake, rows, silent, results.refused)
    cut = [
        one
        for row in rows
        if (value := results.values.get(row["utterance_id"]))
        for one in segment_rows.utterances(row, value)
    ]
    if not cut:
        raise InputError(
            f"none of {len(rows)} recordings gives an utterance: {len(results.refused)} cannot be read, {len(silent)}"
            " have no speech",
            where=lake.uri("utterances_meta", f"{name}-recordings.json"),
            remedy="This file gives the reasons. Set corpus.manifest.segment.kind to none if the rows are utterances",
            kind="no_speech",
        )
    return utterances_table(cut)


def find_utterances(row: Mapping[str, Any], config: VadConfig, storage_options: Mapping[str, Any] | None = None) -> Row:
    """Find the utterances of one recording, given its audio_uri, start_s and end_s.

    Returns:
        The address; duration_s of what was read; spans, in milliseconds from the beginning of what was read.

    Raises:
        AudioError: It cannot be read.
        TransientError: The storage failed in a way that may be temporary.
    """
    from emoray.audio.silero import FRAME_SAMPLES, SpeechDetector

    detector, samples, rest_S = SpeechDetector(), 0, np.zeros(0, np.float32)
    # One growing buffer: small arrays kept between blocks would fragment the memory of the freed large ones.
    speech = array("f")
    for block_S in stream(
        row["audio_uri"], start_s=row["start_s"], end_s=row["end_s"], storage_options=storage_options
    ):
        samples += len(block_S)
        block_S = np.concatenate([rest_S, block_S])
        whole = len(block_S) // FRAME_SAMPLES * FRAME_SAMPLES
        speech.frombytes(detector.probabilities(block_S[:whole]).tobytes())
        rest_S = block_S[whole:]
    speech.frombytes(detector.probabilities(rest_S).tobytes())
    duration_s = samples / AUDIO_HZ
    spans = utterances(
        np.frombuffer(speech, np.float32),
        config.activity,
        duration_s=duration_s,
        pad_s=config.pad_s,
        max_utterance_s=config.max_utterance_s,
    )
    in_ms = [{"start_ms": round(1000 * span.start_s), "end_ms": int(1000 * span.end_s)} for span in spans]
    return {**{name: row[name] for name in ADDRESS}, "duration_s": duration_s, "spans": in_ms}


def _stored(lake: Lake, fingerprint: str, rows: Sequence[Row]) -> dict[str, Row]:
    columns = {name: pads.field(name) for name in ("utterance_id", "value")}
    table = lake.read_stage(STAGE, fingerprint, columns)
    if table is None:
        return {}
    address = {row["utterance_id"]: [row[name] for name in ADDRESS] for row in rows}
    # Another corpus may have a recording with this id, or this corpus may have had another span of it.
    return {
        outcome["utterance_id"]: outcome["value"]
        for outcome in table.to_pylist()
        if address.get(outcome["utterance_id"]) == [outcome["value"][name] for name in ADDRESS]
    }


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Recordings are processed in parallel with one thread each: the network is too small for several."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _process_all(rows: Sequence[Row], config: VadConfig, lake: Lake, results: _Results) -> Iterator[int]:
    """Process recordings and store the results; yields how many are done."""
    storage = lake.fs.storage_options or None
    queue = iter(rows)
    fresh: list[Row] = []
    done, since = 0, time.monotonic()
    with ThreadPoolExecutor(config.workers) as pool:

        def submit(some: Iterable[Row]) -> dict[Future[Row], Row]:
            return {pool.submit(find_utterances, row, config, storage): row for row in some}

        pending = submit(itertools.islice(queue, 2 * config.workers))
        try:
            while pending:
                finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    row = pending.pop(future)
                    try:
                        results.values[row["utterance_id"]] = future.result()
                        fresh.append(row)
                    except EmorayError as error:
                        results.refused.append(Refused(row["utterance_id"], error.kind, str(error)))
                pending |= submit(itertools.islice(queue, len(finished)))
                done += len(finished)
                if fresh and (not pending or time.monotonic() - since > FLUSH_S):
                    _store(lake, config.fingerprint, fresh, results)
                    fresh, since = [], time.monotonic()
                yield done
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _store(lake: Lake, fingerprint: str, rows: Sequence[Row], results: _Results) -> None:
    outcomes = [
        {"utterance_id": row["utterance_id"], "value": results.values[row["utterance_id"]], "error": None}
        for row in rows
    ]
    lake.append_stage(STAGE, fingerprint, pa.Table.from_pylist(outcomes, stage_schema(VALUE_TYPE)))


def _report(name: str, lake: Lake, rows: Sequence[Row], silent: Sequence[str], refused: Sequence[Refused]) -> None:
    ordered = sorted(refused, key=lambda one: one.recording_id)
    where = lake.write_json(
        {"recordings": len(rows), "without_speech": list(silent), "refused": [vars(one) for one in ordered]},
        "utterances_meta",
        f"{name}-recordings.json",
    )
    if refused:
        kinds = ", ".join(f"{kind} ×{number}" for kind, number in sorted(Counter(r.kind for r in refused).items()))
        first = ", ".join(one.recording_id for one in ordered[:NAMED]) + (" …" if len(ordered) > NAMED else "")
        log.warning("%d of %d recordings cannot be read (%s): %s; see %s", len(refused), len(rows), kinds, first, where)
    if silent:
        log.warning("%d of %d recordings have no speech; see %s", len(silent), len(rows), where)
    lost = sum(bool(row["transcript"]) and not segment_rows.timed(row) for row in rows)
    if lost:
        log.warning("%d transcripts have no word times and cannot be divided among the utterances", lost)
