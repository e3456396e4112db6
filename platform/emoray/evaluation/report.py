"""The report of an evaluation: a folder with metrics.json, predictions.parquet, figures and one HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from emoray.evaluation import conformal, figures, pages
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.metrics import DEFINITIONS
from emoray.evaluation.summary import check_predictions, semantic_levels, summarise


@dataclass(frozen=True)
class About:
    """What a reader must know about the run behind a report.

    Attributes:
        title: Headline, for example the model's name and version.
        facts: Run id, model version, hashes, seeds, commit …, shown as they are, in this order.
        protocol: Further sentences on how the splits were made and the model selected.
        ceiling: Best CCC that any predictor can reach per dimension, if known (synthetic labels with planted noise).
        synthetic: Whether the corpus is synthetic; the page then says what that means.
    """

    title: str
    corpus: str
    facts: Mapping[str, str] = field(default_factory=dict)
    protocol: Sequence[str] = ()
    ceiling: Mapping[str, float] | None = None
    synthetic: bool = False


@dataclass(frozen=True)
class Report:
    """A written report: its folder, its HTML page, and the content of metrics.json."""

    folder: Path
    page: Path
    metrics: dict[str, Any]

    def flat(self) -> dict[str, float]:
        """Estimates as `full/ccc_valence` → value, for a tracking store; undefined ones are left out.

        Estimates over several seeds also have standard deviations, `full/ccc_valence_seed_sd`.
        """
        return {
            f"{level}/{name}{suffix}": entry[key]
            for level, found in self.metrics["levels"].items()
            for name, entry in found["metrics"].items()
            for key, suffix in (("estimate", ""), ("seed_sd", "_seed_sd"))
            if entry[key] is not None
        }


def write_report(
    folder: str | Path,
    predictions: pl.DataFrame,
    config: EvaluateConfig,
    about: About,
    *,
    dev: pl.DataFrame | None = None,
    half_widths: conformal.HalfWidths | None = None,
    classes: Sequence[str] = (),
    baselines: pl.DataFrame | None = None,
) -> Report:
    """Evaluate predictions and write the report folder; files in it with the same names are replaced.

    Args:
        predictions: Predictions on the evaluated split, at one or several semantic levels (see `summarise`).
        dev: Predictions on dev, for the calibration figure, and for the half widths if none are given.
        half_widths: The model version's conformal half widths.
        baselines: Predictions of the baselines on the same clips, if there are any.

    Raises:
        InputError: The predictions break the contract of `summarise`.
    """
    if half_widths is None and dev is not None:
        half_widths = conformal.fit(dev, config.conformal_level)
    metrics = summarise(predictions, config, half_widths=half_widths, classes=classes, baselines=baselines)
    metrics["about"] = {**asdict(about), "facts": dict(about.facts), "protocol": list(about.protocol)}
    used = [*(("CCC", "Pearson", "MAE", "bias") if metrics["dimensions"] else ())]
    used += ("UA", "WA", "macro-F1") if metrics["classes"] else ()
    used += ("ECE", "Brier") if any("ece" in one["metrics"] for one in metrics["levels"].values()) else ()
    frame = check_predictions(predictions)
    return write_folder(
        folder,
        metrics,
        frame,
        {f"figures/{name}": figure for name, figure in _figures(frame, metrics, about, dev).items()},
        "report.html.j2",
        m=metrics,
        about=metrics["about"],
        best=list(metrics["levels"])[-1],
        definitions=[(name, DEFINITIONS[name]) for name in used],
    )


def write_folder(
    folder: str | Path,
    metrics: dict[str, Any],
    predictions: pl.DataFrame,
    drawn: Mapping[str, Figure],
    template: str,
    **values: Any,
) -> Report:
    """Write a report folder: metrics.json, predictions.parquet, figures, and report.html with the figures inside.

    It is made if absent; files in it with the same names are replaced.

    Args:
        drawn: Path below the folder, without its suffix → figure. The template finds `images` by the last part.
        **values: What else the template reads.
    """
    target, images = Path(folder), {}
    target.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        path = target / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path)
        data = base64.b64encode(path.read_bytes()).decode()
        images[path.stem] = {"data": data, "width_px": round(96 * figure.get_size_inches()[0])}
    (target / "metrics.json").write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    predictions.write_parquet(target / "predictions.parquet")
    page = target / "report.html"
    page.write_text(pages.render(template, images=images, **values), encoding="utf-8")
    return Report(target, page, metrics)


def _figures(
    frame: pl.DataFrame, metrics: Mapping[str, Any], about: About, dev: pl.DataFrame | None
) -> dict[str, Figure]:
    best = semantic_levels(frame)[-1]
    shown, level = frame.filter(pl.col("level") == best), metrics["levels"][best]
    drawn: dict[str, Figure | None] = {}
    if metrics["dimensions"]:
        drawn["ccc"] = figures.ccc_by_level(metrics, about.ceiling)
        drawn["predicted"] = figures.predicted_against_true(shown, level)
        if metrics["conformal_level"] is not None and dev is not None and best in dev["level"]:
            dev_best = check_predictions(dev).filter(pl.col("level") == best)
            drawn["calibration"] = figures.calibration(dev_best, shown, metrics["conformal_level"])
        drawn["groups"] = figures.ccc_by_group(level, "ccc_mean", "mean CCC")
    if metrics["classes"]:
        drawn["confusion"] = figures.confusion_matrix(level["confusion"], metrics["classes"])
        if "ece" in level["metrics"]:
            known = shown.filter(pl.col("emotion_true").is_in(metrics["classes"]))
            drawn["reliability"] = figures.reliability(known, metrics["classes"])
        if not metrics["dimensions"]:
            drawn["groups"] = figures.ccc_by_group(level, "ua", "UA")
    return {name: figure for name, figure in drawn.items() if figure is not None}
