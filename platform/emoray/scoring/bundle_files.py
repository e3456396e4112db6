"""The stages that a version was fitted with, read from its bundle without its weights and without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from emoray.config import BASE_PRESET, merge, read_preset
from emoray.errors import RegistryError
from emoray.stages.config import AnnotateConfig
from emoray.stages.norms import Norms

FORMAT = 1


@dataclass(frozen=True)
class FittedStages:
    """The annotation stages that a version was fitted with.

    Attributes:
        annotate: Their configuration; the text encoder points into the bundle.
        fingerprints: Fingerprint of each.
        norms: Their norms.
    """

    annotate: AnnotateConfig
    fingerprints: dict[str, str]
    norms: Norms


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
    encoder = (root / "text_encoder").absolute()
    if encoder.is_dir():
        annotate = annotate.model_copy(update={"embed": annotate.embed.model_copy(update={"model": str(encoder)})})
    if (root / prompt_file(0)).is_file():
        tree = annotate.model_dump(mode="json")
        model = tree["semantics"][annotate.semantics.kind]
        model["prompts"] = [str((root / prompt_file(number)).absolute()) for number in range(len(model["prompts"]))]
        annotate = AnnotateConfig.model_validate(tree)
    return FittedStages(annotate, stages["fingerprints"], Norms.from_json(read_json(root / "norms.json")))


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
