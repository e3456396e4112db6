"""`python -m benchmarks.tiny FOLDER [NAME …]`: write tiny checkpoints into a folder, one sub-folder each."""

from __future__ import annotations

import argparse
import sys

from benchmarks.tiny.checkpoints import MAKERS, SMALLEST, Size, make


def main() -> None:
    """Read the command line and write what it names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiny", description=__doc__)
    parser.add_argument("folder", help="where to; FOLDER/NAME is made for each")
    parser.add_argument("names", nargs="*", help=f"which of: {', '.join(MAKERS)} (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=SMALLEST.width, help="hidden width; a multiple of 32")
    parser.add_argument("--layers", type=int, default=SMALLEST.layers)
    given = parser.parse_args()
    unknown = set(given.names) - set(MAKERS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MAKERS)}")
    size = Size(width=given.width, layers=given.layers)
    for name in given.names or MAKERS:
        sys.stdout.write(f"{make(name, f'{given.folder}/{name}', seed=given.seed, size=size)}\n")


if __name__ == "__main__":
    main()
