"""What a stage is: a named, versioned function over rows that declares what it reads and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa

#: An utterance on its way: the utterances columns by name, `waveform` (float32 (S,), mono, 16 kHz) once decoded, and
#: every finished stage's value under the stage's name. An absent key and None mean the same: absent.
Row = dict[str, Any]
Value = dict[str, Any]

#: Names that a row carries beside the stages' values; they have no fingerprint of their own.
WAVEFORM = "waveform"


class Stage(ABC):
    """One annotation stage.

    A stage holds configuration only, so that it is cheap to build, to fingerprint and to send to a worker; weights are
    fetched at the first `run` and cached in the process that runs it.

    Attributes:
        name: Key of the value in a row and name of the stage table.
        version: Raised by hand whenever the output for the same input and options changes (a golden test watches).
        requires: Stages, or `waveform`, that a row must have; a row without one fails with `missing_input`.
        uses: Stages that are read where present.
        value_type: Arrow type of the value.
        needs_norms: The output depends on the fitted norms, whose hash then enters the fingerprint.
        resources: `actor` for stages that hold weights or a decoder, `task` for the rest.
        weights: Neighbouring `actor` stages of one name use the same weights, and so share their workers.
        gpus: GPUs that one worker of an `actor` stage takes where there are any: 0, 1, or several (tensor parallel).
        rows_at_a_time: Rows that a worker works on at the same moment, whichever batch they came with (an engine's
            sequences, a client's requests): its pool hands it several batches at a time, from several threads. 0 for a
            stage that takes one batch after the other.
        waits: Its work is done elsewhere, behind an endpoint: its cost is the time that passes, not that of the cores.
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

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """All that can change the output but version and inputs: kind, model revision, options, prompt version."""

    @abstractmethod
    def run(self, rows: list[Row]) -> Sequence[Value | Exception]:
        """Annotate rows.

        Args:
            rows: Rows that have every required input.

        Returns:
            One value per row, in order, with the fields of `value_type`; in the place of a row that is known to be bad,
            the exception. A row's value must not depend on its neighbours.

        Raises:
            Exception: Whatever went wrong; `guard.run_isolating_rows` finds the row that caused it. What no row
                caused is a ServiceError, ConfigError or MissingExtraError.
        """
