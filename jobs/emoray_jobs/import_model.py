"""import-model: a public checkpoint becomes a version that scores, serves and faces the gate like any other."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from emoray.errors import ConfigError
from emoray.lake import Lake
from emoray.models.public_checkpoints import SETTINGS, WEIGHTS, PublicCheckpoint, read_checkpoint
from emoray.registry import versions
from emoray.registry.card import model_card
from emoray.registry.tracking import Tracking, connect
from emoray.registry.versions import CHALLENGER, CHAMPION, Version
from emoray.schema import DIMENSIONS
from emoray.scoring.bundle import open_bundle, save_bundle
from emoray.stages import pipeline, weights
from emoray.stages.norms import Norms
from emoray_jobs.progress import waiting

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: Tag of a version: hash of the checkpoint's files, by which a second import finds the first.
CHECKPOINT = "emoray.checkpoint"
#: Ends of the scale of checkpoints that do not say them.
SCALES = {
    "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim": (1.0, 7.0),
    "3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes": (1.0, 7.0),
}


@dataclass(frozen=True)
class ImportResult:
    """What an import came to.

    Attributes:
        source: What was imported.
        model_name: The registered model.
        version: Its new version.
        alias: Alias of the version; None if it was imported before.
        reused: The same files were imported before; nothing was done.
        licence: The licence that the checkpoint's card names.
        outputs: The checkpoint's outputs in its own order.
        scale: Ends of the scale, None where it is not known.
        parameters: Number of parameters.
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

    Args:
        config: The jobs' configuration.
        source: Hub id or folder.
        revision: Revision on the hub.
        encoder: Folder or hub id of the encoder whose configuration the checkpoint only refers to.
        scale: Ends of the scale that it was trained on.
        champion: Make the version champion if there is none yet.

    Raises:
        ConfigError: The checkpoint cannot be fetched, is of no known layout, or its weights do not fit.
    """
    scale = scale or SCALES.get(source)
    with waiting(f"reading {source}"):
        folder, commit = _fetch(source, revision)
        checkpoint = read_checkpoint(folder, config.model, name=source, encoder=encoder)
        identity = weights.revision(str(folder))
    tracking = connect(config.tracking, Lake(config.lake))
    known = next((one for one in versions.all_versions(tracking) if one.tags.get(CHECKPOINT) == identity), None)
    alias = None
    made = known
    if made is None:
        tags = {
            CHECKPOINT: identity,
            "emoray.source": source if commit is None else f"{source}@{commit}",
            "emoray.licence": checkpoint.licence or "unknown",
        }
        with waiting(f"registering {source}"):
            made = _register(config, tracking, source, checkpoint, scale, tags)
        alias = CHAMPION if champion and versions.find_alias(tracking, CHAMPION) is None else CHALLENGER
        versions.set_alias(tracking, alias, made)
    return ImportResult(
        source=source,
        model_name=tracking.model_name,
        version=made.version,
        alias=alias,
        reused=known is not None,
        licence=checkpoint.licence,
        outputs=checkpoint.outputs,
        scale=scale,
        parameters=checkpoint.parameters,
    )


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
            remedy="Check the name and the network, or give a folder that holds its files",
        ) from error
    return folder, folder.name


def _register(
    config: Config,
    tracking: Tracking,
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
    run_id = tracking.start_run(f"import {source}", params=params, tags=tags)
    with tracking.running(run_id), tempfile.TemporaryDirectory(prefix="emoray-bundle-") as work:
        folder = save_bundle(
            Path(work) / "bundle",
            model=checkpoint.model,
            config=checkpoint.config,
            annotate=config.annotate,
            fingerprints=pipeline.fingerprints(config.annotate, None),
            norms=Norms.unfitted(),
            half_widths={},
            conformal_level=config.evaluate.conformal_level,
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
        return versions.log_bundle(tracking, run_id, folder, card=card, tags=tags)


def render(result: ImportResult) -> RenderableType:
    """The result as it is printed."""
    units = "unknown; scores have no corpus units" if result.scale is None else "{:g} to {:g}".format(*result.scale)
    name = f"Version {result.version} of {result.model_name}"
    verdict = f"{name}: imported before." if result.reused else f"{name}, alias {result.alias}."
    return Text(
        f"{result.source}: {result.parameters / 1e6:.1f} million parameters.\n"
        f"Licence by its card: {result.licence or 'none is named; ask its authors before you use it'}.\n"
        f"Its outputs: {', '.join(result.outputs)}; here: {', '.join(DIMENSIONS)}. Scale: {units}.\n"
        f"{verdict}"
    )
