"""The site builds strictly, needs no network to read, and holds what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_kit import DOCS, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-d", str(folder / "trees")]
    run = subprocess.run(
        [*command, str(DOCS), str(folder / "html")], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr[-5000:]
    return folder / "html"


def test_no_page_loads_anything_from_elsewhere(site):
    """Links that a reader may click are fine; scripts, styles, fonts and pictures come with the site."""
    loads = re.compile(
        r"<(?:script|img|iframe|source|audio|video)[^>]*\ssrc=[\"']?(?:https?:)?//"
        r"|<link(?![^>]*rel=[\"'](?:canonical|license|author)[\"'])[^>]*href=[\"']?(?:https?:)?//"
        r"|@import\s+(?:url\()?[\"']?(?:https?:)?//|url\([\"']?(?:https?:)?//",
    )
    files = [path for path in site.rglob("*") if path.suffix in {".html", ".css"}]
    found = [f"{path.relative_to(site)}: {hit}" for path in files for hit in loads.findall(path.read_text())]
    assert len(files) > 30
    assert not found


@pytest.mark.parametrize(
    "planted",
    [
        '<script src="https://cdn.example/x.js">',
        '<link rel="stylesheet" href="//cdn.example/x.css">',
        "@import url(https://cdn.example/x.css)",
        "src: url('https://cdn.example/x.woff2')",
    ],
)
def test_a_planted_address_is_found(planted, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(planted)
    with pytest.raises(AssertionError):
        test_no_page_loads_anything_from_elsewhere(_many(tmp_path, page))


def _many(folder: Path, page: Path) -> Path:
    for number in range(40):
        (folder / f"{number}.html").write_text("<p>nothing</p>")
    assert page.exists()
    return folder


def test_keys_and_commands_in_the_text_are_links(site):
    guide = (site / "guides" / "annotate.html").read_text(encoding="utf-8")
    assert 'href="../reference/configuration.html#confval-plan.price_per_cpu_hour"' in guide
    assert 'href="../reference/commands.html#command-annotate"' in guide


def test_formulas_are_mathml(site):
    models = (site / "models.html").read_text(encoding="utf-8")
    assert models.count("<math") > 5
    assert not [script for script in re.findall(r"<script[^>]*>", models) if "mathjax" in script.lower()]


def test_scripts_of_the_theme_call_nobody(site):
    scripts = [path for path in site.rglob("*.js") if os.path.getsize(path)]
    calls = re.compile(r"(?:fetch|importScripts|import)\(\s*[\"']https?://")
    assert scripts
    assert not [str(path.relative_to(site)) for path in scripts if calls.search(path.read_text(errors="replace"))]
