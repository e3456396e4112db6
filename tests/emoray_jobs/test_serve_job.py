"""`emoray serve`: what it prints."""

import pytest
import yaml
from process_kit import free_port

from emoray import config as settings
from emoray.errors import ConfigError
from emoray_jobs import serve
from emoray_jobs.config import Config

NONE_YET = {"name": "emoray", "alias": "champion", "version": None, "failure": None}
SERVING = {**NONE_YET, "version": "3"}
BROKEN = {**SERVING, "failure": {"version": "4", "message": "no weights", "attempts": 1}}


def test_build_prints_a_config_that_carries_what_differs_from_the_preset(tmp_path):
    config = settings.load(Config, overrides=[f"lake.root={tmp_path}", "serve.scorer.poll_s=9"], environ={})
    result = serve.run(config, build=True)
    application = yaml.safe_load(result.config_yaml)["applications"][0]
    assert application["import_path"] == "emoray_serving.app:build"
    assert application["args"]["lake"] == {"root": str(tmp_path)}
    assert application["args"]["serve"] == {"scorer": {"poll_s": 9}}
    assert serve.render(result).plain == result.config_yaml


def test_news_come_once_each():
    assert serve.news({}, NONE_YET) == [
        "No version of emoray is champion yet: requests get 503 no_champion until one is promoted."
    ]
    assert serve.news(NONE_YET, NONE_YET) == []
    assert serve.news(NONE_YET, SERVING) == ["Serving version 3 of emoray."]
    assert serve.news(SERVING, BROKEN) == ["Version 4 does not load: no weights (staying with version 3)"]
    again = {**BROKEN, "failure": {**BROKEN["failure"], "attempts": 2}}
    assert serve.news(BROKEN, again) == []
    away = {"unreachable": "connection refused"}
    assert serve.news(SERVING, away) == ["The application does not answer: connection refused"]
    assert serve.news(away, away) == []
    assert serve.news(away, SERVING) == ["Serving version 3 of emoray."]


def test_a_describer_that_cannot_ask_its_engine_is_refused_before_anything_starts(tmp_path):
    engine = "{kind: endpoint, endpoint: {url: 'http://127.0.0.1:8001/v1', api_key_env: NO_SUCH_KEY}}"
    overrides = [
        f"lake.root={tmp_path}",
        f"serve.http.port={free_port()}",
        f"serve.describer.engine={engine}",
    ]
    config = settings.load(Config, overrides=overrides, environ={})
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"), serve.running(config):
        pass
    assert not any(tmp_path.iterdir())
