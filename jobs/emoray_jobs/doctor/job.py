"""`emoray doctor`: find what would fail in ten minutes' time, in seconds, and say what to do about it.

The checks run side by side, each under a deadline, so that one service that does not answer hides nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emoray.errors import EmorayError
from emoray_jobs.doctor import engines, machine, services, speech
from emoray_jobs.doctor.finding import Finding

if TYPE_CHECKING:
    from rich.console import RenderableType

    from emoray_jobs.config import Config

DEADLINE_S = 15.0

CHECKS: dict[str, Callable[[Config], Finding]] = {
    "python": machine.check_python,
    "packages": machine.check_packages,
    "shadowing": machine.check_shadowing,
    "machine": machine.check_machine,
    "disk": machine.check_disk,
    "gpu": machine.check_gpu,
    "ports": machine.check_ports,
    "audio": speech.check_audio,
    "espeak": speech.check_espeak,
    "text encoder": speech.check_text_encoder,
    "engines": engines.check_engines,
    "lake": services.check_lake,
    "tracking": services.check_tracking,
    "champion": services.check_champion,
    "ray": services.check_ray,
    "token": services.check_token,
}
#: Checks whose answer comes from elsewhere; the others are kept waiting by this machine alone.
ASKS_OTHERS = {"engines", "lake", "tracking", "champion", "ray"}
#: Of these, those that a tracking store in a local file answers: importing MLflow takes seconds on a busy machine.
OF_THE_STORE = {"tracking", "champion"}


@dataclass(frozen=True)
class DoctorResult:
    """All findings by name of the check, in the order of `CHECKS`."""

    findings: dict[str, Finding]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing fails."""
        return all(finding.status != "fail" for finding in self.findings.values())


def run(config: Config, *, deadline_s: float = DEADLINE_S) -> DoctorResult:
    """Look at this machine, the storage and the services that the configuration names."""
    started = time.monotonic()
    found: dict[str, Finding] = {}

    def look(name: str) -> None:
        found[name] = _guarded(CHECKS[name], config)

    # Daemons: a check that hangs must not keep the command from ending.
    threads = {name: threading.Thread(target=look, args=(name,), daemon=True) for name in CHECKS}
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, started + deadline_s - time.monotonic()))
    others = ASKS_OTHERS - OF_THE_STORE if services.is_local_store(config.tracking, config.lake) else ASKS_OTHERS
    late = {
        name: Finding("fail", f"no answer within {deadline_s:.0f} s", "Check the address, and the network to it")
        if name in others
        else Finding("warn", f"not done within {deadline_s:.0f} s", "This machine is busy: try again when it is not")
        for name in CHECKS
    }
    return DoctorResult({name: found.get(name, late[name]) for name in CHECKS}, time.monotonic() - started)


def render(result: DoctorResult) -> RenderableType:
    """The findings as a table, and the sum of them."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "found"):
        table.add_column(column)
    for name, finding in result.findings.items():
        found = Text(finding.detail)
        if finding.remedy:
            found.append(f"\n→ {finding.remedy}", style=styles[finding.status])
        table.add_row(Text(finding.status, style=styles[finding.status]), name, found)
    counts = {status: sum(finding.status == status for finding in result.findings.values()) for status in styles}
    closing = f"{counts['fail']} to fix, {counts['warn']} to know, {counts['ok']} fine ({result.seconds:.1f} s)"
    return Group(table, Text(closing))


def _guarded(check: Callable[[Config], Finding], config: Config) -> Finding:
    try:
        return check(config)
    except EmorayError as error:
        where = f"{error.where}: " if error.where else ""
        return Finding("fail", f"{where}{error.what}", error.remedy or "")
    except Exception as error:  # a check that breaks is a finding too, not the end of the others
        return Finding("fail", f"{type(error).__name__}: {error}")
