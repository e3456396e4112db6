"""Processes from Linux's /proc: descendants, names, memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def parents() -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # The name stands in brackets and may contain anything; the parent is the second field after it.
                found[int(entry)] = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
    return found


def descendants(root: int) -> list[int]:
    """A process and all that it started, directly or not."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    family, todo = [], [root]
    while todo:
        one = todo.pop()
        family.append(one)
        todo += children.get(one, [])
    return family


def command(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def memory_bytes(pid: int) -> int:
    """Proportional set size of a process: shared pages count in equal parts; 0 if it has ended."""
    try:
        for line in Path("/proc", str(pid), "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
