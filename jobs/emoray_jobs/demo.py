"""demo: the whole way on one machine, from nothing to a score over HTTP, in one Ray session that ends with it.

Everything is done by the verbs' own functions, so a second run reuses what the first one made.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from emoray.lake.tables import Lake
    from emoray_jobs.config import Config
    from emoray_jobs.evaluate.stored import EvaluateResult
    from emoray_jobs.train.job import TrainResult

STEPS = 8
SAMPLE_S = 1.0
#: Width of the tables where the output is no terminal.
PLAIN_WIDTH = 140


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind.

    Attributes:
        reports: HTML pages of the reports, per version.
        store: Address of the MLflow store.
        champion: Version that is champion now.
        reply: The score that came back over HTTP.
        seconds: Time per step, by its title.
        peak_rss_bytes: Largest resident memory of this process and all that it started; a shared page counts in each.
        next_commands: What to try now.
    """

    reports: list[str]
    store: str
    champion: str
    reply: dict[str, Any]
    seconds: dict[str, float]
    peak_rss_bytes: int
    next_commands: list[str]


def run(config: Config, *, short: bool = False) -> DemoResult:
    """Make a corpus, annotate it, train two models, evaluate and promote them, and score one clip over HTTP.

    Args:
        short: Apply `demo.short`: the same way with little data and few epochs.
    """
    from rich.console import Console

    from emoray.config import merge, validate

    tree = merge(config.model_dump(), config.demo.overrides)
    config = validate(type(config), merge(tree, config.demo.short) if short else tree)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    steps, memory = _Steps(console), _PeakMemory()
    with contextlib.ExitStack() as stack:
        left = _way(config, steps, memory, stack)
    return DemoResult(**left, seconds=steps.seconds, peak_rss_bytes=memory.peak_bytes)


def _way(config: Config, steps: _Steps, memory: _PeakMemory, stack: contextlib.ExitStack) -> dict[str, Any]:
    with steps.step("starting Ray"):
        # The imports are most of it. What the steps below import is imported here, so that it counts once.
        from emoray.lake.tables import Lake
        from emoray.registry.tracking import tracking_uri
        from emoray_jobs import promote, serve  # noqa: F401
        from emoray_jobs.annotate import job as annotate
        from emoray_jobs.cluster.session import session
        from emoray_jobs.corpus import job as corpus
        from emoray_jobs.evaluate import job as evaluate
        from emoray_jobs.train import job as train

        stack.enter_context(session(config.cluster, config.lake))
        stack.enter_context(memory)
    console, lake = steps.console, Lake(config.lake)
    with steps.step("corpus"):
        console.print(corpus.render(corpus.build(config)))
    with steps.step("annotate"):
        console.print(annotate.render(annotate.run(config)))
    with steps.step("train on sound alone: the first champion"):
        acoustic = train.run(_training(config, "acoustic"), champion=True)
        console.print(train.render(acoustic))
    with steps.step("train MSF-SER: the challenger"):
        msf_ser = train.run(_training(config, "msf_ser"))
        console.print(train.render(msf_ser))
    with steps.step("evaluate both on the test speakers"):
        judged = [evaluate.run(config, model=trained.version) for trained in (acoustic, msf_ser)]
        _show(console, judged)
    with steps.step("promote"):
        champion = _promote(config, msf_ser, console)
    with steps.step("score one clip over HTTP"), serve.running(config) as url:
        reply = _post(url, lake, config.corpus.name, champion, console, timeout_s=config.serve.ready_timeout_s)
    from emoray_jobs.config import options

    flags = options(config)
    return {
        "reports": [report.page for result in judged for report in result.reports],
        "store": tracking_uri(config.tracking, lake),
        "champion": champion,
        "reply": reply,
        "next_commands": [
            f"mlflow ui --backend-store-uri {tracking_uri(config.tracking, lake)}",
            f"emoray serve{flags}",
            f"emoray score YOUR.wav{flags}",
        ],
    }


def _training(config: Config, name: str) -> Config:
    epochs = config.demo.acoustic_epochs if name == "acoustic" else config.demo.msf_ser_epochs
    model = config.model.model_copy(update={"name": name})
    return config.model_copy(update={"model": model, "train": config.train.model_copy(update={"epochs": epochs})})


def _show(console: Console, judged: list[EvaluateResult]) -> None:
    from emoray_jobs.evaluate import job as evaluate

    for report in judged[0].reports:
        console.print(evaluate.table(judged, report.split))
        for note in evaluate.notes(report):
            console.print(note)


def _promote(config: Config, challenger: TrainResult, console: Console) -> str:
    """Let MSF-SER face the gate, unless it did in an earlier run. Returns the version that is champion then."""
    from emoray.lake.tables import Lake
    from emoray.registry.tracking import connect
    from emoray.registry.versions import CHAMPION, by_alias
    from emoray_jobs.promote import job as promote

    tracking = connect(config.tracking, Lake(config.lake))
    champion = by_alias(tracking, CHAMPION)
    if champion.version == challenger.version:
        console.print(f"Version {champion.version} passed the gate before and is champion.")
        return champion.version
    console.print(promote.render(promote.run(config, version=challenger.version)))
    return by_alias(tracking, CHAMPION).version


def _post(url: str, lake: Lake, corpus: str, champion: str, console: Console, *, timeout_s: float) -> dict[str, Any]:
    """Send a clip of a voice that no model was trained on: with its transcript, then as a caller who has none."""
    import httpx

    from emoray_jobs.progress import spinner

    row = _unheard_clip(lake, corpus)
    with lake.fs.open(row["audio_uri"], "rb") as file:
        wav = file.read()
    replies = []
    with httpx.Client(base_url=url, timeout=60) as client:
        with spinner("waiting for the champion to be loaded"):
            _until_serving(client, champion, timeout_s)
        for fields in ({"transcript": row["transcript"]}, {}):
            started = time.monotonic()
            answer = client.post("/v1/score", content=wav, params=fields, headers={"Content-Type": "audio/wav"})
            answer.raise_for_status()
            replies.append(dict(answer.json()))
            console.print(_reply_table(replies[-1], row, 1000 * (time.monotonic() - started)))
    return replies[0]


def _unheard_clip(lake: Lake, corpus: str) -> dict[str, Any]:
    import pyarrow.compute as pc

    columns = ["utterance_id", "audio_uri", "split", "transcript", "valence", "arousal", "dominance"]
    table = lake.utterances(corpus, columns)
    found: list[dict[str, Any]] = (
        table.filter(pc.field("split") == "test").sort_by("utterance_id").slice(0, 1).to_pylist()
    )
    return found[0]


def _until_serving(client: Any, version: str, timeout_s: float) -> None:
    import httpx

    from emoray.errors import ServiceError

    deadline = time.monotonic() + timeout_s
    said: Any = None
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            said = client.get("/v1/model").json()
            if said.get("version") == version:
                return
        time.sleep(0.2)
    raise ServiceError(
        f"the application does not serve version {version} after {timeout_s:g} s; it says {said}",
        where=str(client.base_url),
        remedy="The replicas' logs are under /tmp/ray/session_latest/logs/serve",
        kind="not_ready",
    )


def _reply_table(reply: dict[str, Any], row: dict[str, Any], took_ms: float) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    from emoray.schema import DIMENSIONS
    from emoray.stages.conditions import Condition

    model = reply["model"]
    shown = Table(
        title=f"{row['utterance_id']} by {model['name']} version {model['version']}, {took_ms:.0f} ms",
        title_justify="left",
    )
    for column in ("", "score", "interval", "on the corpus's scale", "label"):
        shown.add_column(column, justify="left" if column == "" else "right")
    for name in DIMENSIONS:
        score, interval = reply[name], reply[name]["interval"]
        between = "–" if interval is None else f"{interval['lower']:.2f} to {interval['upper']:.2f}"
        on_scale = "–" if score["value_corpus"] is None else f"{score['value_corpus']:.2f}"
        label = "–" if row[name] is None else f"{row[name]:.2f}"
        shown.add_row(name, f"{score['value']:.2f}", between, on_scale, label)
    used, condition = reply["semantics"]["used"], Condition.named(reply["semantics"]["condition"])
    lines = [f"It used {used} semantics; its intervals are those of: {condition.title}."]
    if reply["transcript"] is not None:
        words = (word["word"].upper() if word["emphasised"] else word["word"] for word in reply["transcript"]["words"])
        lines.append(f"Words (emphasis in capitals): {' '.join(words)}")
    gates = reply["explanation"]["gates"]
    if gates is not None:
        lines.append("Gates: " + ", ".join(f"{name.upper()} {share:.2f}" for name, share in gates.items()))
    return Group(shown, *lines)


def render(result: DemoResult) -> RenderableType:
    """The end of the demo, as it is printed."""
    from rich.text import Text

    total = sum(result.seconds.values())
    lines = [
        "",
        f"Done in {total:.0f} s; peak memory {result.peak_rss_bytes / 2**30:.1f} GiB over all processes.",
        *(f"Report: {page}" for page in result.reports),
        f"MLflow: {result.store}",
        "Try next:",
        *(f"  {command}" for command in result.next_commands),
    ]
    return Text("\n".join(lines))


class _Steps:
    """Announces steps and keeps their times."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        number, elapsed = len(self.seconds) + 1, started - self._started
        self.console.print(f"\n[bold]{number}/{STEPS} {title}[/bold]  ({elapsed:.0f} s so far)")
        yield
        self.seconds[title] = time.monotonic() - started


class _PeakMemory:
    """Samples the resident memory of this process and its descendants while a block runs.

    Attributes:
        peak_bytes: The largest sum.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        import psutil
        import ray  # noqa: F401  (brings psutil along)

        here = psutil.Process()
        while not self._stop.wait(SAMPLE_S):
            total = 0
            for process in [here, *here.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)
