"""Isolation of rows: a bad row is found, retried if that may help, and recorded, and no other row fails with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tenacity

from emoray.config import Section
from emoray.errors import ConfigError, EmorayError, MissingExtraError, ServiceError, StageError, TransientError
from emoray.stages.base import Row, Stage, Value

MESSAGE_CHARACTERS = 500
#: Errors that no row causes and that any other row would also meet: they are raised.
BATCH_LEVEL_ERRORS = (ConfigError, MissingExtraError, ServiceError)


class GuardConfig(Section):
    """How failures are treated.

    Attributes:
        max_attempts: Attempts, in all, of a call that fails with `TransientError`.
        backoff_s: First pause between attempts; it doubles each time.
    """

    max_attempts: int
    backoff_s: float


@dataclass(frozen=True)
class RowOutcome:
    """The outcome of one row in one stage: a value or an error, never both.

    `error` is {type, message, attempts}, as in `emoray.schema.ERROR`; `elapsed_s` the row's share of the time. If
    `stays_to_do`, the error is passing and not the row's (a server that was busy): it is not to be recorded.
    """

    utterance_id: str
    value: Value | None
    error: dict[str, Any] | None
    elapsed_s: float
    stays_to_do: bool = False

    def as_row(self) -> dict[str, Any]:
        """The outcome as a row of the stage table."""
        return {name: value for name, value in vars(self).items() if name != "stays_to_do"}


def run_isolating_rows(stage: Stage, rows: Sequence[Row], config: GuardConfig) -> list[RowOutcome]:
    """Run a stage over rows; the value of each row that succeeds is put into the row under the stage's name.

    A batch that fails is halved until the bad row is alone, which also finds the batch size that fits when memory runs
    out. If a stage itself returns which rows are bad, the others are not repeated. `TransientError` is retried with
    exponential backoff, on the whole batch and again on a single row; if a stage returns it for a row, that row stays
    to do. `KeyboardInterrupt` and `SystemExit` are raised.

    Returns:
        One outcome per row, in the order of `rows`.

    Raises:
        ServiceError: A service that the stage needs is gone.
        ConfigError: The stage cannot be run as it is configured.
        MissingExtraError: The stage needs a part that is not installed.
    """
    outcomes: list[RowOutcome | None] = [None] * len(rows)
    ready: list[int] = []
    for index, row in enumerate(rows):
        missing = [name for name in stage.requires if row.get(name) is None]
        if missing:
            error = StageError(
                f"stage {stage.name!r} needs {', '.join(missing)}, which this row does not have",
                remedy="The outcome of that stage has the reason",
                kind="missing_input",
            )
            outcomes[index] = RowOutcome(row["utterance_id"], None, _record(error, 0), 0.0)
        else:
            ready.append(index)
    pending = [ready] if ready else []
    while pending:
        chunk = pending.pop()
        whole = len(chunk) in (1, len(ready))
        attempts = config.max_attempts if whole else 1
        started = time.perf_counter()
        values, caught, tried = _attempt(stage, [rows[index] for index in chunk], attempts, config.backoff_s)
        elapsed_s = (time.perf_counter() - started) / len(chunk)
        if caught is not None and len(chunk) > 1:
            middle = len(chunk) // 2
            pending += [chunk[middle:], chunk[:middle]]
            continue
        for position, index in enumerate(chunk):
            row = rows[index]
            made = values[position] if caught is None else caught
            if isinstance(made, Exception):
                # Returned in the row's place: the stage has waited for it long enough.
                stays = caught is None and isinstance(made, TransientError)
                outcomes[index] = RowOutcome(row["utterance_id"], None, _record(made, tried), elapsed_s, stays)
            else:
                row[stage.name] = made
                outcomes[index] = RowOutcome(row["utterance_id"], made, None, elapsed_s)
    return [outcome for outcome in outcomes if outcome is not None]


def _attempt(
    stage: Stage, rows: list[Row], max_attempts: int, backoff_s: float
) -> tuple[Sequence[Value | Exception], Exception | None, int]:
    """Run a stage on one chunk: (values, None, tries) or ([], the last error, tries)."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_attempt(max_attempts),
        wait=tenacity.wait_exponential(multiplier=backoff_s),
        reraise=True,
    )
    try:
        values = retrying(stage.run, rows)
        if len(values) != len(rows):
            raise StageError(f"stage {stage.name!r} returned {len(values)} values for {len(rows)} rows")
    except BATCH_LEVEL_ERRORS:
        raise
    except Exception as error:
        return [], error, int(retrying.statistics["attempt_number"])
    return values, None, int(retrying.statistics["attempt_number"])


def _record(error: Exception, attempts: int) -> dict[str, Any]:
    kind = error.kind if isinstance(error, EmorayError) else type(error).__name__
    return {"type": kind, "message": str(error)[:MESSAGE_CHARACTERS] or kind, "attempts": attempts}
