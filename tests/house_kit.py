"""The modules of the three packages and what they import, read from their source."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = {"emoray": ROOT / "platform", "emoray_jobs": ROOT / "jobs", "emoray_serving": ROOT / "serving"}


def modules() -> list[tuple[str, Path]]:
    """Every module of the three packages: dotted name and file."""
    found = []
    for package, folder in SOURCES.items():
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports(name: str, path: Path) -> set[str]:
    """Dotted names that a module imports anywhere, inside functions too; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def takes_config(path: Path) -> set[str]:
    """Names of the functions of a module that have a parameter annotated as the whole `Config`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            hints = [ast.unparse(argument.annotation) for argument in arguments if argument.annotation]
            if any(re.search(r"\bConfig\b", hint) for hint in hints):
                found.add(node.name)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles of a graph: each a list of names that ends with its first. Found by removing one edge at a time."""
    graph, found = {name: set(targets) for name, targets in graph.items()}, []
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            circle = error.args[1][::-1]  # graphlib lists predecessors: reversed, each name imports the next
            found.append(circle)
            graph[circle[0]].discard(circle[1])
        else:
            return found


def module_graph(found: list[tuple[str, Path]]) -> dict[str, set[str]]:
    """Which module imports which, those under TYPE_CHECKING and inside functions too.

    Importing a module runs its packages' `__init__` files. Those that import something themselves count as imported.
    """
    names = {name for name, _ in found}
    own = {
        name: {target for dotted in imports(name, path) for target in _modules_of(dotted, names)}
        for name, path in found
    }
    packages = {name for name, path in found if path.name == "__init__.py" and own[name]}
    graph = {}
    for name, targets in own.items():
        parents = {parent for target in targets for parent in _parents(target) if parent in packages}
        graph[name] = (targets | (parents - set(_parents(name)))) - {name}
    return graph


def _modules_of(dotted: str, names: set[str]) -> set[str]:
    """The module that an imported name is, or is in."""
    if dotted in names:
        return {dotted}
    parent = dotted.rpartition(".")[0]
    return {parent} if parent in names else set()


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]
