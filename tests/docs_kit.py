"""README and documentation as tests read them: fenced blocks, and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
GUIDES = [DOCS / "guides" / f"{name}.md" for name in ("own-corpus", "annotate", "train-compare", "promote", "serve")]

#: Blocks of `sh` are run by tests/test_readme.py as they stand; the others are only parsed.
SHELLS = ("sh", "bash", "console")


def pages() -> list[Path]:
    """README, CONTRIBUTING, infra's README and all pages of the documentation, without the decisions."""
    found = [path for path in sorted(DOCS.rglob("*.md")) if not {"_build", "decisions"} & set(path.parts)]
    return [README, ROOT / "CONTRIBUTING.md", ROOT / "infra" / "README.md", *found]


def blocks(path: Path, language: str) -> list[str]:
    """Content of a page's fenced blocks of one language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [str(block) for block in found]


def commands(path: Path, *languages: str) -> list[str]:
    """Lines of a page's shell blocks: continued lines joined, prompts and comments taken off."""
    text = "\n".join(block for language in languages for block in blocks(path, language))
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).removeprefix("$ ").strip() for line in lines) if line]
