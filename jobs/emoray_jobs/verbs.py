"""The verbs: what each one runs and what it needs. The command line, `submit` and the documentation read this table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A command.

    Attributes:
        module: Module under `emoray_jobs` with its function and its `render`.
        function: Function that does the work. It takes the configuration and, by name, the command's options, which
            `emoray_jobs.cli` explains.
        tracking: It reads or writes the tracking store.
        ray: Its work runs on Ray: the cluster at `cluster.address`, or a local one.
        local_files: Its arguments may name files of this machine.
        long: It may run for hours. After a kill the same command resumes.
        submit: It can run as a job: `emoray submit VERB`.
    """

    module: str
    function: str = "run"
    tracking: bool = False
    ray: bool = False
    local_files: bool = False
    long: bool = False
    submit: bool = False


VERBS: dict[str, Verb] = {
    "demo": Verb("demo", tracking=True, ray=True),
    "corpus build": Verb("corpus.job", "build", long=True, submit=True),
    "corpus import": Verb("corpus.import_file", local_files=True, submit=True),
    "corpus stats": Verb("corpus.job", "stats", submit=True),
    "corpus list": Verb("corpus.job", "listing", submit=True),
    "lake rehome": Verb("rehome"),
    "annotate": Verb("annotate.job", tracking=True, ray=True, long=True, submit=True),
    "annotate --plan": Verb("annotate.plan", ray=True, submit=True),
    "annotate --compact": Verb("annotate.compact", long=True, submit=True),
    "train": Verb("train.job", tracking=True, ray=True, long=True, submit=True),
    "reproduce": Verb("train.reproduce", tracking=True, ray=True, long=True, submit=True),
    "protocol": Verb("protocol.job", tracking=True, ray=True, long=True, submit=True),
    "evaluate": Verb("evaluate.job", tracking=True, submit=True),
    "evaluate --compare": Verb("evaluate.compare", tracking=True, submit=True),
    "evaluate --robustness": Verb("evaluate.robustness", tracking=True, submit=True),
    "leaderboard": Verb("evaluate.leaderboard", tracking=True, submit=True),
    "import-model": Verb("import_model", tracking=True, local_files=True, submit=True),
    "promote": Verb("promote.job", tracking=True, submit=True),
    "promote --explain": Verb("promote.history", tracking=True, submit=True),
    "rollback": Verb("promote.job", "rollback", tracking=True, submit=True),
    "history": Verb("promote.history", "listing", tracking=True, submit=True),
    "registry prune": Verb("prune", tracking=True, submit=True),
    "serve": Verb("serve", tracking=True, ray=True),
    "score": Verb("score.job", tracking=True, ray=True, local_files=True, long=True, submit=True),
    "enrol": Verb("enrol", tracking=True, local_files=True, submit=True),
    "export": Verb("export.job", local_files=True),
    "submit": Verb("submit.job", local_files=True, long=True),
    "doctor": Verb("doctor.job", tracking=True, submit=True),
}


def find_verb(words: Sequence[str]) -> str | None:
    """Name of the verb that a command line runs; None if there is none.

    Args:
        words: Words after the program's name: `["annotate", "--split", "dev", "--plan"]` runs `annotate --plan`.
    """
    if not words:
        return None
    names = [f"{words[0]} {word}" for word in words[1:]] + [words[0]]
    return next((name for name in names if name in VERBS), None)
