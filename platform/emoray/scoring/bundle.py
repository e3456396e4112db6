"""A model version's folder: the weights and everything that they were fitted with.

Layout::

    model.json        name, configuration, scale, classes, text width
    model.safetensors weights
    stages.json       the annotate configuration, and the fingerprint of every stage under each condition
    norms.json        prosody norms, the reference of emphasis and semantics
    prompt.yaml       the prompt of the semantics, if a language model wrote them; prompt-2.yaml … for further ones
    conformal.json    half width per semantic level and dimension, and their nominal level
    text_encoder/     the text encoder, Hugging Face layout (absent if the model reads no text)
    metrics.json      the version's metrics when it was made
    shared.json       in a registered version: text encoder and frozen weights by hash (emoray.scoring.shared_files)

It has no pickle: loading a bundle runs no code from it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from emoray.config import BASE_PRESET, merge, read_preset
from emoray.errors import RegistryError
from emoray.evaluation.conformal import HalfWidths
from emoray.lake.atomic import atomic_folder
from emoray.lake.speakers import StoredSpeakers
from emoray.lake.tables import Lake
from emoray.models.build import SOUND_ALONE, build, frontend, portable
from emoray.models.config import ModelConfig
from emoray.schema import GRANULARITIES
from emoray.scoring.bundle_files import (
    FORMAT,
    FittedStages,
    bad_config_error,
    broken_bundle_error,
    model_document,
    open_stages,
    prompt_file,
    read_json,
)
from emoray.scoring.shared_files import FROZEN, FROZEN_WEIGHTS, TEXT_ENCODER, locate
from emoray.stages.conditions import Condition, FittedCondition
from emoray.stages.config import AnnotateConfig
from emoray.stages.model_files.weights import model_folder, revision
from emoray.stages.norms import Norms
from emoray.stages.semantics.prompt import read_chat_template, read_prompt

#: Files that are copied from a Hugging Face folder. No `.bin`: those are pickles.
_ENCODER_FILES = (".safetensors", ".json", ".txt", ".model")


@dataclass(frozen=True)
class Bundle(FittedStages):
    """An opened bundle.

    Attributes:
        model: The model in evaluation mode, on the CPU.
        scale: Ends of the corpus's scale, or None if it is not known.
        dimensional: Whether the dimensions were trained; False for a version of classes alone.
        half_widths: Conformal half widths on the [0, 1] scale.
        conformal_level: Their nominal coverage.
        metrics: The version's metrics when it was made.
        sounds: Enrolled speakers as `emoray.models.frontend.sound_means` gives them; not part of the folder.
    """

    folder: Path
    config: ModelConfig
    model: nn.Module
    scale: tuple[float, float] | None
    dimensional: bool
    half_widths: HalfWidths
    conformal_level: float
    metrics: dict[str, Any]
    sounds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def granularities(self) -> tuple[str, ...]:
        """Text vectors that the model reads."""
        return text_read(self.config)

    def with_speakers_of(self, lake: Lake) -> Bundle:
        """See `FittedStages.with_speakers_of`."""
        known = super().with_speakers_of(lake)
        if not self.config.encoder.speaker_norms:
            return known
        return dataclasses.replace(known, sounds=StoredSpeakers(lake, frontend(self.config.encoder).fingerprint))

    def enrolled_clips(self, speaker_id: str | None) -> int:
        """Clips that all norms of a speaker which the model uses rest on; 0 for an unknown one."""
        found = [self.norms.for_speaker(speaker_id).clips] if self.granularities else []
        if self.config.encoder.speaker_norms:
            found.append(int(self.sounds.get(speaker_id or "", {}).get("clips", 0)))
        return min(found, default=0)

    def level_name(self, level: str, condition: str) -> str:
        """See the function `level_name`."""
        return level_name(self.config, [one.name for one in self.conditions], level, condition)


def level_name(config: ModelConfig, conditions: Sequence[str], level: str, condition: str) -> str:
    """Name of a semantic level under one of a version's conditions, as in reports and intervals.

    With one condition it is the level's. Sound alone depends on what is known of the speaker at most, never on words.
    """
    if len(conditions) < 2:
        return level
    if level == "audio":
        if not config.encoder.speaker_norms:
            return level
        clips = Condition.named(condition).enrol_clips
        condition = next((name for name in conditions if Condition.named(name).enrol_clips == clips), condition)
    return f"{level}/{condition}"


def text_read(config: ModelConfig) -> tuple[str, ...]:
    """Text vectors that a model of this configuration reads: none if it uses the sound alone."""
    if config.name in SOUND_ALONE:
        return ()
    return tuple(name for name in GRANULARITIES if name in config.granularities)


def save_bundle(
    folder: str | Path,
    *,
    model: nn.Module,
    config: ModelConfig,
    annotate: AnnotateConfig,
    conditions: Sequence[FittedCondition],
    norms: Norms,
    half_widths: HalfWidths,
    conformal_level: float,
    scale: Sequence[float] | None,
    metrics: Mapping[str, Any],
    dimensional: bool = True,
) -> Path:
    """Write a bundle, whole or not at all; an older one is replaced. Returns its folder.

    Args:
        annotate: Configuration of the stages it was fitted with.
        conditions: The conditions that it was fitted under, the first one first.
        norms: The norms of the first.
        half_widths: Conformal half widths from dev (`emoray.evaluation.conformal.fit`).
        scale: Ends of the corpus's scale; None if it is not known.
    """
    with atomic_folder(folder) as draft:
        work = Path(draft)
        document = {
            "format": FORMAT,
            "name": config.name,
            "config": portable(config).model_dump(mode="json"),
            "scale": list(scale) if scale is not None else None,
            "dimensional": dimensional,
            "classes": list(config.classes),
            "text_width": config.text_width,
        }
        _write(work / "model.json", document)
        save_model(model, str(work / "model.safetensors"))
        fitted = [dataclasses.asdict(one) for one in conditions]
        _write(work / "stages.json", {"annotate": _portable_stages(annotate), "conditions": fitted})
        _write(work / "norms.json", norms.to_json())
        _write(work / "conformal.json", {"level": conformal_level, "half_widths": half_widths})
        _write(work / "metrics.json", dict(metrics))
        semantics = annotate.semantics
        if semantics.kind != "cues":
            for number, name in enumerate(semantics.model_dump()[semantics.kind]["prompts"]):
                (work / prompt_file(number)).write_text(read_prompt(name).text, encoding="utf-8")
        if text_read(config):
            _copy_encoder(annotate.embed.model, work / TEXT_ENCODER)
    return Path(folder).absolute()


def open_bundle(folder: str | Path) -> Bundle:
    """Read a bundle without making a scorer of it.

    Raises:
        RegistryError: The folder is not a bundle, is incomplete, or was written by a newer version.
    """
    root = Path(folder)
    document = model_document(root)
    fitted, conformal = open_stages(root), read_json(root / "conformal.json")
    document["config"]["encoder"].setdefault("speaker_norms", False)  # bundles from before there were any
    try:
        # Keys that came after the version was made have the values of the preset.
        config = ModelConfig.model_validate(merge(read_preset(BASE_PRESET)["model"], document["config"]))
    except ValidationError as error:
        raise bad_config_error(root, error) from error
    model = build(config)
    frozen = locate(root, FROZEN)
    try:
        _load_weights(model, root / "model.safetensors", None if frozen is None else frozen / FROZEN_WEIGHTS)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise broken_bundle_error(root, f"its weights cannot be loaded: {error}") from error
    model.eval()
    return Bundle(
        **vars(fitted),
        folder=root,
        config=config,
        model=model,
        scale=None if document["scale"] is None else (document["scale"][0], document["scale"][1]),
        dimensional=document.get("dimensional", True),  # bundles from before there was such a mark
        half_widths=_of_all_sets(conformal["half_widths"]),
        conformal_level=conformal["level"],
        metrics=read_json(root / "metrics.json"),
    )


def _load_weights(model: nn.Module, path: Path, frozen: Path | None) -> None:
    """Load a model's weights, which may be in two files; together they must be all of them.

    Raises:
        RuntimeError: They are not.
    """
    if frozen is None:
        load_model(model, str(path))
        return
    results = [load_model(model, str(one), strict=False) for one in (path, frozen)]
    missing = set.intersection(*(set(missing) for missing, _ in results))
    unexpected = [name for _, names in results for name in names]
    if missing or unexpected:
        raise RuntimeError(f"missing: {sorted(missing)[:3]}, not of this model: {sorted(unexpected)[:3]}")


def _of_all_sets(half_widths: HalfWidths) -> HalfWidths:
    """Half widths; in bundles from before each set of text vectors had its own, those of the level without LES."""
    older = {"transcript": "gs", "full": "gs+es"}
    parts = {name: name.partition("/") for name in half_widths}
    added = {f"{older[one[0]]}{one[1]}{one[2]}": half_widths[name] for name, one in parts.items() if one[0] in older}
    return added | half_widths


def _portable_stages(annotate: AnnotateConfig) -> dict[str, Any]:
    """The configuration without paths of this machine that another would have to read: a chat template's text."""
    tree = annotate.model_dump(mode="json")
    chat = tree["semantics"].get(annotate.semantics.kind, {}).get("chat")
    if chat is not None and chat["template"] is not None:
        chat["template"] = read_chat_template(chat["template"])
    return tree


def _copy_encoder(model: str, target: Path) -> None:
    """Copy a text encoder's weights, settings and tokenizer."""
    target.mkdir()
    for path in sorted(model_folder(model).iterdir()):
        if path.suffix in _ENCODER_FILES and path.is_file():
            shutil.copyfile(path, target / path.name)
    # Fingerprints name the encoder by the hash of its files: with other files the copy would be another encoder.
    if revision(str(target)) != revision(model):
        raise RegistryError(
            "the text encoder cannot be copied: its weights are not (only) safetensors",
            where=model,
            remedy="Convert it: AutoModel.from_pretrained(…).save_pretrained(…), into a new folder",
            kind="bad_bundle",
        )


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
