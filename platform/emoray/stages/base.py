"""A stage: a named, versioned function over rows that declares what it reads and what it returns.

A row has the utterances columns by name, `waveform` (float32 (S,), mono, 16 kHz) once decoded, and every finished
stage's value under the stage's name. An absent key and None mean the same: absent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa

from emoray.schema import Row as Row

Value = dict[str, Any]

#: Key of a row that is not a stage's value; it has no fingerprint.
WAVEFORM = "waveform"


class Stage(ABC):
    """One annotation stage.

    A stage has only configuration, so that it is cheap to build, to fingerprint and to send to a worker; weights are
    loaded at the first `run` and cached in the process that runs it.

    Attributes:
        name: Key of the value in a row, and name of the stage table.
        version: To be raised whenever the output for the same input and options changes (a golden test checks it).
        requires: Stages, or `waveform`, that a row must have; a row without one fails with `missing_input`.
        uses: Stages that are read if present.
        value_type: Arrow type of the value.
        needs_norms: The output depends on the fitted norms, whose hash is then part of the fingerprint.
        resources: `actor` for stages with weights or a decoder, `task` for the others.
        weights: Neighbouring `actor` stages with the same name here use the same weights, and so share their workers.
        gpus: GPUs that one worker of an `actor` stage takes if there are any: 0, 1, or several (tensor parallel).
        rows_at_a_time: Rows that a worker processes at the same time, from any batch: an engine's sequences. Its pool
            gives it several batches at a time, from several threads. 0 for one batch at a time.
        waits: Its work is done behind an endpoint: its cost is the elapsed time, not that of the cores.
        model: Name of the model that it runs, for people: no part of the fingerprint. Empty without one.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    requires: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    value_type: ClassVar[pa.StructType]
    needs_norms: ClassVar[bool] = False
    resources: Literal["task", "actor"] = "task"
    weights: ClassVar[str | None] = None
    gpus: int = 1
    rows_at_a_time: int = 0
    waits: bool = False
    model: str = ""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What can change the output except version and inputs: kind, model revision, options, prompt version."""

    @abstractmethod
    def run(self, rows: list[Row]) -> Sequence[Value | Exception]:
        """Annotate rows that have every required input.

        Returns:
            One value per row, in order, with the fields of `value_type`; for a row that is known to be bad, the
            exception, and a TransientError for one that is to be tried again later (a server was busy). A row's value
            must not depend on its neighbours.

        Raises:
            Exception: Any error; `guard.run_isolating_rows` finds the row that caused it. Errors that no row causes are
                ServiceError, ConfigError or MissingExtraError.
        """
