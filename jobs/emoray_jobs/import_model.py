"""import-model: a public checkpoint becomes a version that scores, serves and faces the gate like any other."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from emoray.errors import ConfigError
from emoray.lake.tables import Lake
from emoray.models.public_checkpoints import SETTINGS, WEIGHTS, PublicCheckpoint, read_checkpoint
from emoray.registry import promotion, versions
from emoray.registry.card import model_card
from emoray.registry.publish.log import log_bundle
from emoray.registry.tracking import Tracking, connect
from emoray.registry.versions import CHALLENGER, CHAMPION, Version
from emoray.schema import DIMENSIONS
from emoray.scoring.bundle import open_bundle, save_bundle
from emoray.stages import pipeline
from emoray.stages.conditions import FittedCondition
from emoray.stages.config import AnnotateConfig
from emoray.stages.model_files import weights
from emoray.stages.norms import Norms
from emoray_jobs.progress import spinner

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: Tags of a version, by which a second import finds the first: hash of the checkpoint's files, and the scale.
CHECKPOINT, SCALE = "emoray.checkpoint", "emoray.scale"
#: Ends of the scale of checkpoints that do not say them.
SCALES = {
    "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim": (1.0, 7.0),
    "3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes": (1.0, 7.0),
}


@dataclass(frozen=True)
class ImportResult:
    """What an import came to.

    Attributes:
        alias: Alias that the version got; None if it had one before.
        reused: The same files with the same scale were imported before.
        licence: The licence that the checkpoint's card names.
        outputs: The checkpoint's outputs in its own order.
        scale: Ends of the scale, None where it is not known.
    """

    source: str
    model_name: str
    version: str
    alias: str | None
    reused: bool
    licence: str | None
    outputs: tuple[str, ...]
    scale: tuple[float, float] | None
    parameters: int


def run(
    config: Config,
    *,
    source: str,
    revision: str | None = None,
    encoder: str | None = None,
    scale: tuple[float, float] | None = None,
    champion: bool = False,
) -> ImportResult:
    """Read a public checkpoint and register it as challenger.

    Raises:
        ConfigError: The checkpoint cannot be fetched, is of no known layout, or its weights do not fit.
    """
    scale = scale or SCALES.get(source)
    with spinner(f"reading {source}"):
        folder, commit = _fetch(source, revision)
        checkpoint = read_checkpoint(folder, config.model, name=source, encoder=encoder)
        identity = weights.revision(str(folder))
    tracking = connect(config.tracking, Lake(config.lake))
    key = {CHECKPOINT: identity, SCALE: _units(scale)}
    known = next((one for one in versions.all_versions(tracking) if key.items() <= one.tags.items()), None)
    made = known
    if made is None:
        tags = {
            **key,
            "emoray.source": source if commit is None else f"{source}@{commit}",
            "emoray.licence": checkpoint.licence or "unknown",
        }
        with spinner(f"registering {source}"):
            made = _register(
                tracking, config.annotate, config.evaluate.conformal_level, source, checkpoint, scale, tags
            )
    return ImportResult(
        source=source,
        model_name=tracking.model_name,
        version=made.version,
        alias=_named(tracking, made, champion=champion),
        reused=known is not None,
        licence=checkpoint.licence,
        outputs=checkpoint.outputs,
        scale=scale,
        parameters=checkpoint.parameters,
    )


def _named(tracking: Tracking, version: Version, *, champion: bool) -> str | None:
    """Give a version an alias unless it has one, which a call that was killed may not have come to."""
    present = versions.find_alias(tracking, CHAMPION)
    if champion and present is None and promotion.crown_first(tracking, version, "emoray import-model --champion"):
        return CHAMPION
    named = (present, versions.find_alias(tracking, CHALLENGER))
    if any(one is not None and one.uri == version.uri for one in named):
        return None
    versions.set_alias(tracking, CHALLENGER, version)
    return CHALLENGER


def _units(scale: tuple[float, float] | None) -> str:
    return "unknown" if scale is None else "{:g} to {:g}".format(*scale)


def _fetch(source: str, revision: str | None) -> tuple[Path, str | None]:
    """The checkpoint's local folder, and its commit where it comes from the hub."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path, None
    if path.is_absolute() or source.startswith((".", "~")):
        raise ConfigError("there is no such folder", where=source, remedy="Give a folder, or a hub id as OWNER/NAME")
    from huggingface_hub import snapshot_download

    try:
        # Both forms of the weights are over a gigabyte: the second is fetched only where there is no first.
        for name in WEIGHTS:
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=[*SETTINGS, name]))
            if (folder / name).is_file():
                break
    except Exception as error:
        raise ConfigError(
            f"cannot fetch {source!r} from the Hugging Face hub: {type(error).__name__}",
            remedy="Check the name and the network, or give a folder with its files",
        ) from error
    return folder, folder.name


def _register(
    tracking: Tracking,
    annotate: AnnotateConfig,
    conformal_level: float,
    source: str,
    checkpoint: PublicCheckpoint,
    scale: tuple[float, float] | None,
    tags: dict[str, str],
) -> Version:
    order = ", ".join(checkpoint.outputs)
    limits = [
        f"Licence of the weights, by their card: {checkpoint.licence or 'none is named; ask their authors'}.",
        f"The checkpoint gives {order}, in this order; the version gives {', '.join(DIMENSIONS)}.",
        "Imported as it was published: nothing was trained or calibrated here, so its scores have no intervals.",
    ]
    params = {"model": checkpoint.config.model_dump(mode="json", exclude={"encoder"}), "source": source}
    norms, name = Norms.unfitted(), pipeline.conditions(annotate)[0].name
    run_id = tracking.start_run(f"import {source}", verb="import-model", params=params, tags=tags)
    with tracking.running(run_id), tempfile.TemporaryDirectory(prefix="emoray-bundle-") as work:
        folder = save_bundle(
            Path(work) / "bundle",
            model=checkpoint.model,
            config=checkpoint.config,
            annotate=annotate,
            conditions=[FittedCondition(name, pipeline.fingerprints(annotate, None), norms.hash)],
            norms=norms,
            half_widths={},
            conformal_level=conformal_level,
            scale=scale,
            metrics={},
        )
        card = model_card(
            open_bundle(folder),
            title=f"{tracking.model_name}: {source}",
            corpus="the checkpoint's own",
            facts={"MLflow run": run_id, **tags},
            synthetic=False,
            limits=limits,
        )
        return log_bundle(tracking, run_id, folder, card=card, tags=tags)


def render(result: ImportResult) -> RenderableType:
    """The result as it is printed."""
    units = _units(result.scale) + ("; scores have no corpus units" if result.scale is None else "")
    name = f"Version {result.version} of {result.model_name}"
    verdict = (
        f"{name}{f', alias {result.alias}' if result.alias else ''}{', imported before' if result.reused else ''}."
    )
    return Text(
        f"{result.source}: {result.parameters / 1e6:.1f} million parameters.\n"
        f"Licence by its card: {result.licence or 'none is named; ask its authors before you use it'}.\n"
        f"Its outputs: {', '.join(result.outputs)}; here: {', '.join(DIMENSIONS)}. Scale: {units}.\n"
        f"{verdict}{f' {promotion.NOT_JUDGED}' if result.alias == CHAMPION else ''}"
    )
