"""The mark of what was measured: others under other settings and other code, and nothing else."""

from pathlib import Path

from benchmarks.sources import mark


def test_settings_and_code_decide(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "prompt.txt").write_text("Say how it sounds.")

    def marked(*settings: object) -> str:
        return mark(*settings, packages=(package,))

    before = marked(20, "a: 1")
    (package / "__pycache__" / "module.pyc").write_bytes(b"compiled")
    assert marked(20, "a: 1") == before
    assert len({before, marked(2, "0a: 1"), marked(20, "a: 2")}) == 3
    (package / "prompt.txt").write_text("Say how it sounds!")
    changed = marked(20, "a: 1")
    (package / "prompt.txt").rename(package / "question.txt")
    assert len({before, changed, marked(20, "a: 1")}) == 3
