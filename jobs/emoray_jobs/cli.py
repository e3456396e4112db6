"""The command line `emoray`: reads arguments, hands over to the verb's module, prints what comes back.

Nothing heavy is imported before a verb runs: `--help` stays under half a second.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter

import emoray
from emoray.errors import ConfigError, EmorayError, ErrorBudgetExceeded, StoppedError
from emoray_jobs.verbs import VERBS, find_verb

if TYPE_CHECKING:
    from emoray_jobs.config import Config

USAGE_ERROR, FAILURE, REFUSED, INTERRUPTED = 2, 1, 3, 130
PLAIN_WIDTH = 140
#: Names of the shipped presets, by their files: `emoray.config` would import pydantic.
PRESETS = sorted(path.stem for path in Path(emoray.__file__).with_name("presets").glob("*.yaml"))

app = App(
    name="emoray",
    help="Speech emotion at cluster scale: annotate, train, promote and score valence, arousal and dominance on Ray.",
    version=lambda: metadata.version("emoray"),
    help_format="plaintext",  # the others import a Markdown renderer: a fifth of the time that --help may take
    default_parameter=Parameter(negative=(), show_default=False),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
corpus_app = App(name="corpus", help="Import a corpus, look at it, list what there is.")
app.command(corpus_app)
lake_app = App(name="lake", help="Care for the lake: tables, audio and artifacts under one root.")
app.command(lake_app)
registry_app = App(name="registry", help="Care for the model registry: versions, their files, checkpoints.")
app.command(registry_app)

COMMON = Group("Configuration", sort_key=100)


@Parameter(name="*", group=COMMON)
@dataclass(frozen=True)
class Common:
    """Options that every verb has."""

    preset: Annotated[
        str, Parameter(alias="-p", help=f"Shipped configuration to start from: {', '.join(PRESETS)}.")
    ] = "laptop"
    config: Annotated[Path | None, Parameter(alias="-c", help="YAML file with what differs from it.")] = None
    set: Annotated[
        list[str],
        Parameter(alias="-s", help="Override one key: section.key=value, the value in YAML. May be repeated."),
    ] = field(default_factory=list)
    show_config: Annotated[bool, Parameter(help="Print the configuration that would be in force, and stop.")] = False
    debug: Annotated[bool, Parameter(help="Show the trace of an error, and log more.")] = False


DEFAULTS = Common()


@app.command
def demo(*, short: bool = False, common: Common = DEFAULTS) -> None:
    """The whole way on this machine: corpus, annotations, two models, promotion, one clip scored over HTTP.

    Args:
        short: With little data and few epochs: shows that it works, not how well.
    """
    _do("demo", common, short=short)


@corpus_app.command(name="build")
def corpus_build(*, common: Common = DEFAULTS) -> None:
    """Import the configured corpus into the lake (or make it, if it is the synthetic one)."""
    _do("corpus build", common)


@corpus_app.command(name="import")
def corpus_import(path: str, *, force: bool = False, common: Common = DEFAULTS) -> None:
    """Read an audformat database, an EmotionML document or Parquet from `emoray export` into the lake as corpus.name.

    Args:
        path: Folder of the database (with db.yaml), or the .xml, .emotionml or .parquet file.
        force: Replace a corpus of that name.
    """
    _do("corpus import", common, path=path, force=force)


@corpus_app.command(name="stats")
def corpus_stats(*, common: Common = DEFAULTS) -> None:
    """Hours, speakers, splits and labels of the configured corpus."""
    _do("corpus stats", common)


@corpus_app.command(name="list")
def corpus_list(*, common: Common = DEFAULTS) -> None:
    """The corpora of the lake."""
    _do("corpus list", common)


@lake_app.command(name="rehome")
def lake_rehome(*, before: str | None = None, common: Common = DEFAULTS) -> None:
    """Let a lake that was moved or copied name itself again: addresses of audio and, in its MLflow store, of artifacts.

    Without it a copy would read the original's audio and write into the original's artifacts.

    Args:
        before: Where the lake lay; what its MLflow store says if left out.
    """
    _do("lake rehome", common, before=before)


@app.command
def annotate(
    *,
    plan: bool = False,
    calibrate: bool = False,
    retry_failed: bool = False,
    refit_norms: bool = False,
    split: list[str] | None = None,
    compact: bool = False,
    common: Common = DEFAULTS,
) -> None:
    """Annotate the corpus: transcripts, emphasis, semantics and their vectors. After a kill the same command resumes.

    Args:
        plan: Print what would be computed and reused, with which workers, how long and for how much, and stop.
        calibrate: For the plan, measure the stages whose cost is unknown on a few utterances.
        retry_failed: Try the rows again whose errors are on record.
        refit_norms: Fit the speakers' and the corpus's norms again.
        split: Only this split; may be repeated.
        compact: Only tidy up: few files per stage table, one row per utterance, leftovers of killed runs removed.
    """
    if compact:
        _do("annotate --compact", common)
    elif plan:
        _do("annotate --plan", common, splits=split or (), calibrate=calibrate)
    else:
        try:
            _do("annotate", common, retry_failed=retry_failed, refit_norms=refit_norms, splits=split or ())
        except ErrorBudgetExceeded as error:
            if error.summary is not None:
                _print(error.summary)
            raise


@app.command
def train(*, fresh: bool = False, champion: bool = False, common: Common = DEFAULTS) -> None:
    """Train the configured model on the annotated corpus and register it. After a kill the same command resumes.

    SIGTERM and Ctrl-C make it checkpoint after the step in hand and end with status 130; a second one ends it at once.

    Args:
        fresh: Start from the beginning, even if the same run is finished or under way.
        champion: Make the version champion, without the gate, if the model never had one.
    """
    _do("train", common, fresh=fresh, champion=champion)


@app.command
def reproduce(run: str, *, common: Common = DEFAULTS) -> None:
    """Train the model of an earlier run again, from what the run recorded, and compare. Status 1 if figures differ.

    It says what differs from then: code, packages, data. It registers nothing. After a kill the same command resumes.

    Args:
        run: MLflow id of a run of emoray train; or a version: a number, an alias or models:/name/number.
    """
    result = _do("reproduce", common, reference=run)
    if result is not None and not result.equal:
        raise SystemExit(FAILURE)


@app.command
def protocol(
    *,
    seeds: Annotated[list[int] | None, Parameter(consume_multiple=True)] = None,
    leave_out: Literal["speaker"] | None = None,
    common: Common = DEFAULTS,
) -> None:
    """Measure the configured model by the corpus's own protocol: each fold and seed, test predictions pooled.

    Folds (IEMOCAP: a session, EMO-DB: a speaker left out) or the corpus's own partitions (MSP-Podcast). It registers no
    version: a protocol measures, `emoray train` fills the registry. After a kill the same command resumes; a trial that
    failed is tried again, and until all are finished the exit status is 1.

    Args:
        seeds: Seeds, for example --seeds 0 1 2; protocol.seeds if left out.
        leave_out: speaker: leave speakers out in turn, in any corpus (in groups: protocol.speaker_groups).
    """
    result = _do("protocol", common, seeds=seeds or (), leave_out=leave_out)
    if result is not None and result.failed:
        raise SystemExit(FAILURE)


@app.command
def evaluate(
    *,
    model: str | None = None,
    compare: tuple[str, str] | None = None,
    robustness: bool = False,
    common: Common = DEFAULTS,
) -> None:
    """Evaluate a registered model on the corpus's test split and write the report.

    Args:
        model: Version, alias or models:/name@alias; the newest challenger, else the champion, if left out.
        compare: Instead: two of these, compared on the same clips, with paired intervals.
        robustness: Instead: the model on clips with noise, codecs, other speeds, wrong and missing words.
    """
    if compare is None:
        _do("evaluate --robustness" if robustness else "evaluate", common, model=model)
        return
    if model is not None or robustness:
        from emoray.errors import InputError

        other = "--model" if model is not None else "--robustness"
        raise InputError(f"--compare and {other} at once", where="evaluate", remedy=f"Leave {other} out")
    _do("evaluate --compare", common, first=compare[0], second=compare[1])


@app.command
def leaderboard(*, common: Common = DEFAULTS) -> None:
    """All registered versions on the corpus's test splits, best first, as a page; scores those that never were."""
    _do("leaderboard", common)


@app.command(name="import-model")
def import_model(
    source: str,
    *,
    revision: str | None = None,
    encoder: str | None = None,
    scale: tuple[float, float] | None = None,
    champion: bool = False,
    common: Common = DEFAULTS,
) -> None:
    """Register a public checkpoint as a version, with no training: score, serve, evaluate and promote it as any other.

    Args:
        source: Hub id or folder: audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim,
            3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes, or another checkpoint of one of these two layouts.
        revision: Revision on the hub; its newest if left out.
        encoder: Folder or hub id of the encoder whose configuration the checkpoint only refers to.
        scale: Ends of the scale that it was trained on (1 7 for MSP-Podcast); known for the two named above.
        champion: Make the version champion, without the gate, if the model never had one.
    """
    _do(
        "import-model",
        common,
        source=source,
        revision=revision,
        encoder=encoder,
        scale=scale,
        champion=champion,
    )


@app.command
def promote(
    *,
    version: str | None = None,
    first: bool = False,
    dry_run: bool = False,
    refusal_is_success: bool = False,
    explain: int | None = None,
    json: bool = False,
    common: Common = DEFAULTS,
) -> None:
    """Let a challenger replace the champion, if it passes the gate. Ends with exit status 3 if it does not.

    Args:
        version: Version to promote: a number, an alias or models:/name/number; the challenger if left out.
        first: Let it in although the champion's alias is missing, with nothing to compare with.
        dry_run: Judge and print, and leave the champion as it is; it counts as an attempt.
        refusal_is_success: End with status 0 if the gate refuses: for job systems that take any other for a failed job.
        explain: Instead: print a decision of the past, by its number in emoray history.
        json: Print JSON.
    """
    shown = "to_json" if json else "render"
    if explain is not None:
        _do("promote --explain", common, render=shown, number=explain)
        return
    result = _do("promote", common, render=shown, version=version, first=first, dry_run=dry_run)
    if result is not None and not result.passed and not refusal_is_success:
        raise SystemExit(REFUSED)


@app.command
def rollback(*, to: str | None = None, json: bool = False, common: Common = DEFAULTS) -> None:
    """Make the previous champion champion again; champions that are gone or do not load are skipped.

    Args:
        to: This version instead; it must have been champion.
        json: Print JSON.
    """
    _do("rollback", common, render="to_json" if json else "render", to=to)


@app.command
def history(*, json: bool = False, common: Common = DEFAULTS) -> None:
    """What was decided on the champion: promotions, refusals, rollbacks, with their figures.

    Args:
        json: Print JSON.
    """
    _do("history", common, render="to_json" if json else "render")


@registry_app.command(name="prune")
def registry_prune(*, yes: bool = False, keep: int | None = None, common: Common = DEFAULTS) -> None:
    """Versions and checkpoints that nobody needs: says which, and removes them with --yes.

    Versions with an alias, those that ever were champion, and the newest stay.

    Args:
        yes: Remove them.
        keep: How many of the newest versions stay in any case; tracking.keep_versions if left out.
    """
    _do("registry prune", common, yes=yes, keep=keep)


@app.command
def serve(*, build: bool = False, detach: bool = False, common: Common = DEFAULTS) -> None:
    """Serve the champion over HTTP until Ctrl-C.

    Args:
        build: Only print the Serve config, for `serve deploy` and KubeRay.
        detach: On a cluster: return once the application runs, and leave it there.
    """
    _do("serve", common, build=build, detach=detach)


@app.command
def score(
    *sources: str,
    table: str | None = None,
    model: str | None = None,
    transcript: str | None = None,
    speaker: str | None = None,
    semantics: Literal["none", "transcript", "full"] = "full",
    name: str | None = None,
    json: bool = False,
    common: Common = DEFAULTS,
) -> None:
    """Score recordings: files, folders, or a table.

    Args:
        sources: Audio files and folders (local or s3://).
        table: A corpus of the lake, or a manifest (csv, jsonl, parquet) with a column audio_uri.
        model: models:/name@alias, models:/name/version, a version or an alias; the champion if left out.
        transcript: What is said in the one file. Without it, words are recognised if the version knows a recogniser.
        speaker: Who speaks in the files; see `emoray enrol`.
        semantics: How much of the words the score may use.
        name: Under which name a table's scores are kept in the lake.
        json: Print JSON, one object per recording.
    """
    _do(
        "score",
        common,
        render="to_json" if json else "render",
        sources=sources,
        table=table,
        model=model,
        transcript=transcript,
        speaker=speaker,
        semantics=semantics,
        name=name,
    )


@app.command
def enrol(speaker: str, /, *sources: str, model: str | None = None, common: Common = DEFAULTS) -> None:
    """Learn how a speaker usually speaks, from a few recordings; scores that name the speaker then compare with it.

    Args:
        speaker: Id of the speaker, as requests and tables name it.
        sources: Recordings of that speaker, files or folders (local or s3://); five are enough.
        model: Version whose stages measure: models:/name@alias, models:/name/version, a version or an alias.
    """
    _do("enrol", common, speaker=speaker, sources=sources, model=model)


@app.command
def export(
    format: Literal["audformat", "emotionml", "msp", "parquet"],
    *,
    scores: str | None = None,
    out: str | None = None,
    split: list[str] | None = None,
    audio_root: str | None = None,
    force: bool = False,
    common: Common = DEFAULTS,
) -> None:
    """Write a corpus with its annotations, or a table's scores, for other programs. Whole files only.

    Args:
        format: audformat (a database's folder), emotionml (1.0, PAD dimensions in 0..1), msp (submission csv in units
            of the corpus's scale) or parquet (everything as it is).
        scores: Scores instead of the corpus: their name in the lake (as in emoray score --name), a Parquet file, or a
            .jsonl file that emoray score --json printed, which brings the time course along.
        out: File or, for audformat, folder to write, local or s3://; below exports/ in the lake if left out.
        split: Only this split; may be repeated.
        audio_root: Folder that audio is named below, so that the export can be moved with it (audformat, emotionml).
        force: Replace an earlier export.
    """
    _do(
        "export",
        common,
        format=format,
        scores=scores,
        out=out,
        splits=split or (),
        audio_root=audio_root,
        force=force,
    )


@app.command
def submit(
    verb: str,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    address: str | None = None,
    wait: Annotated[bool, Parameter(negative="--no-wait")] = True,
    common: Common = DEFAULTS,
) -> None:
    """Run a verb on a Ray cluster: emoray submit VERB … --address http://HEAD:8265. Ends with the job's status.

    Args:
        verb: The verb to run there.
        arguments: The verb's own arguments.
        address: The cluster's job server; submit.address if left out.
        wait: Follow the job to its end.
    """
    result = _do("submit", common, verb=verb, arguments=arguments, address=address, wait=wait)
    if result is not None and result.exit_code:
        raise SystemExit(result.exit_code)


@app.command
def doctor(*, common: Common = DEFAULTS) -> None:
    """Find what would go wrong before it does: versions, memory, storage, services."""
    result = _do("doctor", common)
    if result is not None and not result.ok:
        raise SystemExit(FAILURE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; the process's own by default.

    Returns:
        Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused by the gate, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _fail(str(error), USAGE_ERROR, debug)
    except StoppedError as error:
        return _fail(str(error), INTERRUPTED, debug)
    except EmorayError as error:
        return _fail(str(error), USAGE_ERROR if isinstance(error, ConfigError) else FAILURE, debug)
    except KeyboardInterrupt:
        verb = find_verb(words)
        resumes = ". The same command resumes" if verb is not None and VERBS[verb].long else ""
        return _fail(f"interrupted; what is done is kept{resumes}", INTERRUPTED, debug)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILURE
    except Exception as error:
        if (lost := _tracking_lost(error)) is not None:
            return _fail(str(lost), FAILURE, debug)
        hint = "" if debug else ". This should not happen: run it again with --debug for the trace"
        return _fail(f"{type(error).__name__}: {error}{hint}", FAILURE, debug)
    return 0


def _do(verb: str, common: Common, /, *, render: str = "render", **options: Any) -> Any:
    """Load the configuration, run a verb and print its result; None with `--show-config`, which runs nothing."""
    config = _load(common)
    if common.show_config:
        from emoray.config import to_yaml

        sys.stdout.write(to_yaml(config))
        return None
    entry = VERBS[verb]
    module = importlib.import_module(f"emoray_jobs.{entry.module}")
    result = getattr(module, entry.function)(config, **options)
    _print(getattr(module, render)(result))
    return result


def _print(shown: Any) -> None:
    """Text as it is; anything else as rich draws it."""
    if isinstance(shown, str):
        sys.stdout.write(shown)
        return
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(shown)


def _load(common: Common) -> Config:
    import logging

    logging.basicConfig(
        level=logging.INFO if common.debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    from emoray.config import load
    from emoray_jobs.config import Config

    return load(Config, preset=common.preset, file=common.config, overrides=common.set)


def _tracking_lost(error: Exception) -> EmorayError | None:
    """The error to show where a tracking server went away in the middle; None where that is not what happened."""
    if "emoray.registry.reach" not in sys.modules:
        return None
    import mlflow

    from emoray.registry.reach import is_lost, lost_error

    return lost_error(mlflow.get_tracking_uri(), error) if is_lost(error) else None


def _fail(text: str, status: int, debug: bool) -> int:
    if debug and status != INTERRUPTED:
        traceback.print_exc()
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    return status
