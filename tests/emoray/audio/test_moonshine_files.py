"""Where Moonshine's files come from."""

from __future__ import annotations

import shutil

import pytest

from emoray.audio.moonshine import TOKENIZER, model_folder
from emoray.errors import ConfigError, MissingExtraError


def test_a_package_without_the_model_is_named(monkeypatch, tmp_path):
    package = tmp_path / "moonshine_voice"
    (package / "assets" / "tiny-en").mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(model_folder() / TOKENIZER, package / "assets" / "tiny-en")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"encoder_model\.ort"):
        model_folder()
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(MissingExtraError, match="moonshine-voice"):
        model_folder()
