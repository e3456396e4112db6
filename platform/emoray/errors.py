"""One tree of errors. Each says what was wrong, where, and what to do. `kind` is its name in tables and replies."""

from __future__ import annotations

from functools import partial


class EmorayError(Exception):
    """Base of every error that emoray raises on purpose.

    Args:
        what: What was wrong, with the offending value.
        where: The path, row, line or configuration key, if there is one.
        remedy: What the user can do.
        kind: Stable snake_case name; defaults to the class's own.
    """

    kind = "error"
    retryable = False

    def __init__(
        self, what: str, *, where: str | None = None, remedy: str | None = None, kind: str | None = None
    ) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        if kind is not None:
            self.kind = kind
        super().__init__(what, where, remedy, self.kind)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), where=self.where, remedy=self.remedy, kind=self.kind), (self.what,)


class ConfigError(EmorayError):
    """A preset, file, environment variable or override that does not fit the configuration."""

    kind = "bad_config"


class InputError(EmorayError):
    """A table, manifest or argument from the user that cannot be used."""

    kind = "bad_input"


class SchemaError(InputError):
    """A table that breaks its column contract (emoray.schema)."""

    kind = "bad_schema"


class AudioError(EmorayError):
    """A clip that cannot be decoded or used.

    `kind` is one of: missing_file, empty_file, not_audio, truncated_audio, audio_too_short, audio_too_long,
    silent_audio, non_finite_samples, non_finite_score.
    """

    kind = "undecodable_audio"


class StageError(EmorayError):
    """A stage that could not annotate a row.

    `kind` is one of: missing_input, alignment_mismatch, empty_transcript, bad_record, or the stage's own.
    """

    kind = "stage_failed"


class TransientError(EmorayError):
    """A failure that may be temporary (throttled storage, an engine that restarts): worth a retry."""

    kind = "transient"
    retryable = True


class ErrorBudgetExceeded(EmorayError):  # noqa: N818 (it says what happened)
    """More rows failed than `max_error_fraction` allows. All outcomes are written nevertheless.

    Attributes:
        summary: What was done, as the job's `render` prints it; None if the job did not finish.
    """

    kind = "error_budget_exceeded"
    summary: object | None = None


class LakeError(EmorayError):
    """A table or artefact that is missing from the lake or cannot be read."""

    kind = "lake_error"


class TrainingError(EmorayError):
    """A training run that cannot continue (non-finite loss, empty split, mismatched checkpoint)."""

    kind = "training_failed"


class StoppedError(TrainingError):
    """A training run that a signal stopped after a step. Its checkpoint is stored; the same command resumes it."""

    kind = "stopped"


class RegistryError(EmorayError):
    """A model version, alias or run that is missing or refused."""

    kind = "registry_error"


class MissingExtraError(EmorayError):
    """An optional part that is not installed; the remedy names the extra."""

    kind = "missing_extra"


class ServiceError(EmorayError):
    """A service (Ray, MLflow, the scoring application) that cannot be reached or answered wrongly."""

    kind = "service_error"


class RefusedError(ServiceError):
    """A service refuses whatever it is asked, as it is configured: a run that asks on would only repeat it."""

    kind = "engine_refuses"
