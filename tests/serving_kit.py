"""The running application and the registry behind it, for tests that ask it over HTTP."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import scoring_kit as kit

from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.publish.log import log_bundle
from emoray.registry.tracking import connect
from emoray.stages.config import AnnotateConfig
from emoray_jobs.config import Config

WAV = {"content-type": "audio/wav"}


class Service:
    """The running application and the registry behind it."""

    def __init__(self, config: Config, url: str, folder: Path):
        self.config, self.folder = config, folder
        self.client = httpx.Client(base_url=url, timeout=60)
        self.tracking = connect(config.tracking, Lake(config.lake))

    def score(self, body: bytes, headers=WAV, **params) -> httpx.Response:
        return self.client.post("/v1/score", content=body, headers=headers, params=params)

    def register(self, seed: int, annotate: AnnotateConfig | None = None) -> versions.Version:
        bundle = kit.make_bundle(self.folder / f"bundle-{seed}", seed=seed, annotate=annotate)
        run = self.tracking.start_run(f"seed {seed}")
        return log_bundle(self.tracking, run, bundle, card="# A test's model", tags={"seed": str(seed)})

    def make_champion(self, version: versions.Version) -> None:
        versions.set_alias(self.tracking, versions.CHAMPION, version)

    def status(self) -> dict:
        return self.client.get("/v1/model").json()

    def until(self, happened, what: str, seconds: float = 60):
        """Ask again and again until something holds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (value := happened()) is not None and value is not False:
                return value
            time.sleep(0.05)
        raise AssertionError(f"{what} did not happen in {seconds} s; the service says {self.status()}")
