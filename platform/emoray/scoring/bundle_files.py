"""The stages that a version was fitted with, read from its bundle without its weights and without torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from emoray.config import BASE_PRESET, merge, read_preset
from emoray.errors import RegistryError
from emoray.lake.speakers import StoredSpeakers
from emoray.lake.tables import Lake
from emoray.scoring.shared_files import FROZEN, FROZEN_WEIGHTS, TEXT_ENCODER, locate
from emoray.stages import pipeline
from emoray.stages.conditions import Condition, FittedCondition
from emoray.stages.config import AnnotateConfig
from emoray.stages.norms import Norms

FORMAT = 1


@dataclass(frozen=True)
class FittedStages:
    """The annotation stages that a version was fitted with.

    Attributes:
        annotate: Their configuration; the text encoder points into the bundle.
        conditions: The conditions that it was fitted under, the first one first, with each stage's fingerprint.
        norms: The norms of the first.
    """

    annotate: AnnotateConfig
    conditions: tuple[FittedCondition, ...]
    norms: Norms

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each stage under the first condition."""
        return self.conditions[0].fingerprints

    @property
    def transcripts(self) -> dict[str, str]:
        """Fingerprint of `transcribe` → the source of words that it stands for."""
        return {
            one.fingerprints["transcribe"]: Condition.named(one.name).transcript
            for one in self.conditions
            if "transcribe" in one.fingerprints
        }

    def with_speakers_of(self, lake: Lake) -> Self:
        """The same, whose norms know the speakers enrolled on a lake too."""
        if "prosody" not in self.fingerprints:
            return self
        speakers = StoredSpeakers(lake, self.fingerprints["prosody"])
        return dataclasses.replace(self, norms=self.norms.with_enrolled(speakers))

    @property
    def known_recogniser(self) -> str | None:
        """The first recogniser whose words the version knows; None where it knows given words alone."""
        return next((source for source in self.transcripts.values() if source != "reference"), None)

    def recogniser(self, configured: str) -> str:
        """The recogniser for clips without words: the configured one; for `auto` one whose words the version knows.

        Moonshine where it knows none: the words can be shown, but not be used.
        """
        if configured != "auto":
            return configured
        return self.known_recogniser or "moonshine"

    def condition(self, transcript: str, enrolled_clips: int) -> str:
        """Name of the condition that is nearest to what is known of a clip: no more of its speaker than there is.

        Args:
            transcript: Source of its words.
            enrolled_clips: Clips that its speaker's norms rest on.
        """
        names = [Condition.named(one.name) for one in self.conditions]
        known = [one for one in names if one.transcript == transcript] or names
        fewer = [one for one in known if one.enrol_clips <= enrolled_clips]
        return max(fewer or known, key=lambda one: one.enrol_clips if fewer else -one.enrol_clips).name


def open_stages(folder: str | Path) -> FittedStages:
    """Read the stages of a bundle, without its weights.

    Raises:
        RegistryError: The folder is not a bundle, is incomplete, or was written by a newer version.
    """
    root = Path(folder)
    model_document(root)
    stages = read_json(root / "stages.json")
    stages["annotate"]["embed"].setdefault("semantics_numbers", False)  # bundles from before there were any
    for kind in ("text_llm", "audio_llm"):
        model = stages["annotate"]["semantics"].get(kind, {})
        if "prompt" in model:  # bundles from before there could be several
            model["prompts"] = [model.pop("prompt")]
    try:
        # Keys that came after the version was made have the values of the preset.
        annotate = AnnotateConfig.model_validate(merge(read_preset(BASE_PRESET)["annotate"], stages["annotate"]))
    except ValidationError as error:
        raise bad_config_error(root, error) from error
    encoder = locate(root, TEXT_ENCODER)
    if encoder is not None:
        annotate = annotate.model_copy(update={"embed": annotate.embed.model_copy(update={"model": str(encoder)})})
    if (root / prompt_file(0)).is_file():
        tree = annotate.model_dump(mode="json")
        model = tree["semantics"][annotate.semantics.kind]
        model["prompts"] = [str((root / prompt_file(number)).absolute()) for number in range(len(model["prompts"]))]
        annotate = AnnotateConfig.model_validate(tree)
    norms = Norms.from_json(read_json(root / "norms.json"))
    if "conditions" not in stages:  # bundles from before there were any
        name = pipeline.conditions(annotate)[0].name
        stages["conditions"] = [{"name": name, "fingerprints": stages["fingerprints"], "norms": norms.hash}]
    return FittedStages(annotate, tuple(FittedCondition(**one) for one in stages["conditions"]), norms)


def check_files(folder: str | Path) -> None:
    """Open each file of a bundle, its weights without reading them; no torch is needed.

    Raises:
        RegistryError: As `open_stages`, or its weights are damaged.
    """
    root = Path(folder)
    open_stages(root)
    read_json(root / "conformal.json")
    frozen = locate(root, FROZEN)
    for path in [root / "model.safetensors", *([frozen / FROZEN_WEIGHTS] if frozen else [])]:
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise broken_bundle_error(root, f"{path.name} cannot be opened: {error}") from error


def prompt_file(number: int) -> str:
    """Name of the file with one of the prompts of the version's semantics, if a language model wrote them."""
    return "prompt.yaml" if number == 0 else f"prompt-{number + 1}.yaml"


def read_json(path: Path) -> Any:
    """A JSON file of a bundle."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise broken_bundle_error(path.parent, f"{path.name} is missing") from None
    except ValueError as error:
        raise broken_bundle_error(path.parent, f"{path.name} is not valid JSON: {error}") from error


def model_document(root: Path) -> dict[str, Any]:
    """`model.json`, if this version of emoray reads its format."""
    document: dict[str, Any] = read_json(root / "model.json")
    if document.get("format") != FORMAT:
        raise RegistryError(
            f"bundle has format {document.get('format')}, this version of emoray reads {FORMAT}",
            where=str(root),
            remedy="Install the version of emoray that wrote it",
            kind="bad_bundle",
        )
    return document


def bad_config_error(folder: Path, error: ValidationError) -> RegistryError:
    """The error for a configuration of another version."""
    return broken_bundle_error(
        folder, f"its configuration does not fit this version of emoray: {error.errors()[0]['msg']}"
    )


def broken_bundle_error(folder: Path, what: str) -> RegistryError:
    """The error for a folder that is not a usable bundle."""
    return RegistryError(
        f"not a usable model bundle, {what}",
        where=str(folder),
        remedy="Fetch the version again, or train it again",
        kind="bad_bundle",
    )
