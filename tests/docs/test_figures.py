"""The figures on the pages are those of benchmarks/results; the map names the rooms that there are."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from docs_kit import DOCS, ROOT

#: Files that the code makes.
MADE = {"model_card.md"}
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = {
    one["name"]: (one["median"], path.name)
    for path in sorted(RESULTS.glob("P*.json"))
    for one in json.loads(path.read_text())
}
PERFORMANCE = (DOCS / "performance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MEASURED)
def test_the_last_figure_of_each_metric_is_on_the_page(name):
    median, file = MEASURED[name]
    row = re.search(rf"^\| `{name}` \| (\S+) \|.*\| `(\S+)` \|$", PERFORMANCE, re.M)
    assert row, f"docs/performance.md has no row for {name}"
    digits = len(row[1].partition(".")[2])
    assert row[1] == f"{median:.{digits}f}", f"docs/performance.md: {name} is {median:.{digits}f} now ({file})"
    assert row[2] == file


def test_a_missed_goal_is_said():
    goals = yaml.safe_load((ROOT / "benchmarks" / "floors.yaml").read_text())["goals"]
    for name, (median, _) in MEASURED.items():
        goal = goals.get(name, {})
        missed = not goal.get("at_least", 0.0) <= median <= goal.get("at_most", float("inf"))
        (row,) = re.findall(rf"^\| `{name}` .*$", PERFORMANCE, re.M)
        assert ("missed**" in row) == missed, row


def _shown(figure, sign=""):
    """A figure with its interval, as pages have it."""
    estimate, low, high = (f"{figure[key]:{sign}.3f}".replace("0.", ".") for key in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]".replace("-", "−")


def test_emodb_figures_are_those_of_the_results():
    figures = json.loads((RESULTS / "emodb.json").read_text())
    for name, kind in (("logmel encoder", "logmel"), ("moonshine_logmel", "moonshine_logmel")):
        model, machine = f"acoustic, {name}", f"SVM, {kind}"
        for row, sign in ((model, ""), (machine, ""), (f"{model} − {machine}", "+")):
            cells = " | ".join(_shown(figures[f"{row}, {clips} clips"], sign) for clips in (0, 10))
            assert f" | {cells} |" in PERFORMANCE, row


def test_ravdess_figures_are_those_of_the_results():
    figures = json.loads((RESULTS / "ravdess.json").read_text())
    decision = (DOCS / "decisions" / "0035-inner-layers.md").read_text(encoding="utf-8")
    for clips in (0, 2, 5, 10, 20):
        name = f"moonshine_logmel, {clips} clips"
        signs = {f"acoustic, {name}": "", f"SVM, {name}": "", f"acoustic − SVM, {name}": "+"}
        row = " | ".join(_shown(figures[one], sign) for one, sign in signs.items())
        assert f"| {clips} | {row} |" in PERFORMANCE
        assert f"| {clips} | {row} |" in decision


def test_figures_of_the_gate_are_those_of_the_results():
    figures = json.loads((RESULTS / "gate.json").read_text())
    decision = (DOCS / "decisions" / "0034-promotion.md").read_text(encoding="utf-8")
    for name in figures["4"]:
        cells = " | ".join(f"{one[name]:.3f}" for one in figures.values())
        assert f"| {name} | {cells} |" in decision
    # The goal that the decision names.
    assert max(one["equal: one of ten promoted"] for one in figures.values()) <= 0.03


def test_the_map_names_every_room():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for package in ("platform/emoray", "jobs/emoray_jobs", "serving/emoray_serving"):
        rooms = [path for path in (ROOT / package).iterdir() if path.is_dir() and (path / "__init__.py").exists()]
        assert rooms
        assert [room.name for room in rooms if f"`{room.name}/`" not in text] == []


def test_what_docstrings_cite_exists():
    """A page that a docstring, a comment or a message names lies in the repository."""
    wrong, count = [], 0
    for folder in ("platform", "jobs", "serving", "benchmarks", "infra"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in {".py", ".yaml", ".j2", ".md"} or "results" in path.parts:
                continue
            text = path.read_text(encoding="utf-8")
            cited = set(re.findall(r"(?<![\w/.{}-])((?:[\w-]+/)*[\w-]+\.md)(?![\w.])", text)) - MADE
            numbers = re.findall(r"docs/decisions/(\d{4})", text)
            count += len(cited) + len(numbers)
            places = (ROOT, path.parent, RESULTS)
            wrong += [f"{path}: {name}" for name in cited if not any((place / name).exists() for place in places)]
            wrong += [f"{path}: {one}" for one in numbers if not list((DOCS / "decisions").glob(f"{one}-*.md"))]
    assert count > 8
    assert not wrong, "\n".join(wrong)
