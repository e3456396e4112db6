"""What `emoray doctor` looks at: one function per check, from the configuration to a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        status: `fail` stops a job sooner or later; `warn` may be on purpose.
        detail: What is there.
        remedy: What to do, where something is to be done.
    """

    status: Status
    detail: str
    remedy: str = ""
