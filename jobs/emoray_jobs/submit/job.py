"""`emoray submit VERB`: run a verb on a Ray cluster, from a clone or from an installed wheel, in any folder.

What travels is small (see `emoray_jobs.submit.package`). The tables stay where they are, on storage that every node
reaches. Nothing is pickled between this machine and the cluster, so their Pythons may differ; their Rays should not.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emoray.errors import ConfigError, InputError, ServiceError
from emoray_jobs.cluster import job_server
from emoray_jobs.config import SubmitConfig
from emoray_jobs.submit.package import build_job_package, package_folders
from emoray_jobs.verbs import VERBS, Verb, find_verb

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient
    from rich.console import RenderableType

    from emoray_jobs.config import Config

RECONNECTS = 5
EXIT_INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended

Emit = Callable[[str], object]


@dataclass(frozen=True)
class SubmitResult:
    """What became of a job.

    Attributes:
        submission_id: Ray's name for the job.
        status: Ray's: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; the last one known where nobody waited.
        message: Ray's explanation of a failure.
        seconds: Since the submission.
        watched: Whether the end was waited for; `--no-wait` and Ctrl-C leave the job running.
        exit_code: For the shell. Of a watched job 0 if it succeeded, else its driver's own or 1; 0 after `--no-wait`,
            130 after Ctrl-C.
        hint: A cause on the cluster's side, if the log names one.
    """

    submission_id: str
    address: str
    status: str
    message: str
    seconds: float
    watched: bool
    exit_code: int
    hint: str | None


def run(
    config: Config,
    verb: str,
    arguments: Sequence[str] = (),
    *,
    address: str | None = None,
    wait: bool = True,
    emit: Emit | None = None,
) -> SubmitResult:
    """Send a verb to a cluster and follow it to its end unless `wait` is false.

    Args:
        config: The resolved configuration; the job gets exactly this.
        verb: A verb that the table `VERBS` lets run as a job.
        address: The job server; overrides `submit.address`.
        wait: Stream the job's log until it ends. Ctrl-C then leaves the job running.
        emit: Takes the log as it comes; prints it by default.

    Raises:
        InputError: Unknown verb, or more files than may be sent.
        ConfigError: No address, or tables in a folder that the cluster does not see.
        ServiceError: The job server does not answer, refuses this client, runs another Ray, or went away for good.
    """
    words = (verb, *arguments)
    entry = _submittable(words)
    emit = emit or _to_stdout
    server = job_server.resolve_address(address, config.submit.address)
    _check_version(server, config.submit, emit)
    started = time.monotonic()
    with build_job_package(config, words, entry, server) as (folder, entrypoint):
        client = _client(server)
        submission_id = _send(client, config.submit, folder, entrypoint)

    def result(
        status: str, *, code: int, message: str = "", watched: bool = False, hint: str | None = None
    ) -> SubmitResult:
        return SubmitResult(submission_id, server, status, message, time.monotonic() - started, watched, code, hint)

    watch = _Watch(client, submission_id, config.submit.pending_notice_s, emit)
    try:
        emit(f"{submission_id} on {server}: {entrypoint}\n")
        if not wait:
            return result("PENDING", code=0)
        details = watch.to_the_end()
    except KeyboardInterrupt:
        return result("RUNNING", code=EXIT_INTERRUPTED)
    status = str(details.status.value)
    if status == "SUCCEEDED":
        return result(status, code=0, watched=True)
    code = details.driver_exit_code or 1
    return result(status, code=code, message=details.message or "", watched=True, hint=_hint(watch.tail))


def render(result: SubmitResult) -> RenderableType:
    """The closing lines."""
    from rich.text import Text

    follow = f"ray job logs --address {result.address} --follow {result.submission_id}"
    stop = f"ray job stop --address {result.address} {result.submission_id}"
    if not result.watched:
        return Text(f"{result.submission_id} continues without this terminal.\n  follow: {follow}\n  stop:   {stop}")
    lines = [f"{result.submission_id}: {result.status} after {result.seconds:.0f} s"]
    if result.exit_code:
        lines += [line for line in (result.message.strip(), result.hint) if line]
        lines.append(f"the whole log: {follow}")
    return Text("\n  ".join(lines))


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()  # a pipe would keep it to itself until the end


def _submittable(words: Sequence[str]) -> Verb:
    name = find_verb(words)
    if name is not None and VERBS[name].submit:
        return VERBS[name]
    known = [one for one, entry in VERBS.items() if entry.submit and "--" not in one]
    near = difflib.get_close_matches(" ".join(words[:2]), known, n=1) or difflib.get_close_matches(words[0], known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    remedy = f"{hint}Verbs that run as a job: {', '.join(known)}. The application is deployed instead (infra/README.md)"
    raise InputError(f"{' '.join(words[:2])!r} cannot be submitted", remedy=remedy, kind="unknown_verb")


def _check_version(address: str, config: SubmitConfig, emit: Emit) -> None:
    from importlib.metadata import version

    theirs, ours = job_server.server_version(address, config.connect_timeout_s), version("ray")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise ServiceError(
            f"the cluster runs Ray {theirs}, this client {ours}",
            where=address,
            remedy=f"Have one version on both sides: nodes from infra/Containerfile, or ray=={theirs} here",
            kind="version_mismatch",
        )
    if theirs != ours:
        emit(f"warning: the cluster runs Ray {theirs}, this client {ours}\n")


def _client(address: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    quiet = (
        "ray.dashboard.modules.job.sdk",
        "ray.dashboard.modules.dashboard_sdk",
        "ray._private.runtime_env.packaging",
    )
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)
    return JobSubmissionClient(address, headers=job_server.auth_headers())


def _send(client: JobSubmissionClient, config: SubmitConfig, folder: str, entrypoint: str) -> str:
    missing = [name for name in config.pass_env if name not in os.environ]
    if missing:
        raise ConfigError(f"not set in this shell: {', '.join(missing)}", where="submit.pass_env")
    runtime_env: dict[str, Any] = {
        "working_dir": folder,
        "py_modules": package_folders(),
        "excludes": ["__pycache__"],
        "env_vars": {**{name: os.environ[name] for name in config.pass_env}, **config.env},
    }
    try:
        return str(client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env))
    except (RuntimeError, OSError) as error:
        raise ServiceError(f"the cluster did not take the job: {error}", kind="job_refused") from error


class _Watch:
    """Streams a job's log, through lost connections, until the job has ended."""

    def __init__(self, client: JobSubmissionClient, submission_id: str, notice_s: float, emit: Emit) -> None:
        self.client = client
        self.submission_id = submission_id
        self.notice_s = notice_s
        self.emit = emit
        self.tail = ""
        self.shown = 0  # characters of the log

    def to_the_end(self) -> Any:
        """Ray's details of the ended job.

        Raises:
            ServiceError: The job server went away and did not come back.
        """
        import aiohttp

        failures = 0
        while True:
            shown = self.shown
            try:
                asyncio.run(self._follow())
                details = self.client.get_job_info(self.submission_id)
            except (RuntimeError, OSError, aiohttp.ClientError) as error:  # of requests: kinds of OSError
                failures = 0 if self.shown > shown else failures + 1
                if failures > RECONNECTS:
                    address = self.client.get_address()
                    raise ServiceError(
                        f"lost the job server ({error})",
                        where=address,
                        remedy=f"The job may still run: ray job logs --address {address} --follow {self.submission_id}",
                        kind="lost_connection",
                    ) from error
                time.sleep(min(2.0**failures, 10.0))
                continue
            if details.status.is_terminal():
                return details
            time.sleep(0.2)  # the log ends a moment before the status says so

    async def _follow(self) -> None:
        notice = asyncio.create_task(self._explain_the_wait())
        position = 0
        try:
            async for text in self.client.tail_job_logs(self.submission_id):
                fresh = text[max(0, self.shown - position) :]  # a new connection starts the log from its beginning
                position += len(text)
                if fresh:
                    self.shown = position
                    self.tail = (self.tail + fresh)[-20_000:]
                    self.emit(fresh)
        finally:
            notice.cancel()

    async def _explain_the_wait(self) -> None:
        while True:
            await asyncio.sleep(self.notice_s)
            details = await asyncio.to_thread(self.client.get_job_info, self.submission_id)
            if details.status.value != "PENDING":
                return
            self.emit(f"waiting: {details.message or 'the job has not started'}\n")


def _hint(tail: str) -> str | None:
    if "ModuleNotFoundError" in tail or "needs Python 3.11" in tail:
        return "The nodes lack packages: start them from the image of infra/Containerfile"
    if "NoCredentialsError" in tail or "Unable to locate credentials" in tail:
        return "The nodes have no credentials for the store: give them a role, or name the variables in submit.pass_env"
    return None
