"""Measuring a challenger and the champion on the gate split, for the gate to decide."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import yaml

from emoray.digest import digest
from emoray.errors import ConfigError
from emoray.evaluation import conformal
from emoray.evaluation.groups import with_duration_bucket
from emoray.lake.tables import Lake
from emoray.registry import clean_process, gate, versions
from emoray.registry.candidate import Candidate, Latency
from emoray.registry.config import GateConfig
from emoray.registry.gate import Decision
from emoray.registry.tracking import Tracking
from emoray.registry.versions import Version
from emoray.schema import UTTERANCES
from emoray.scoring.bundle import Bundle, open_bundle
from emoray.scoring.predictions import request_of
from emoray.scoring.scorer import load_bundle
from emoray.scoring.shared_files import total_bytes
from emoray.stages.conditions import Condition
from emoray_jobs.evaluate.predictions import predictions, utterance_rows
from emoray_jobs.train.local import torch_threads

if TYPE_CHECKING:
    from emoray.stages.config import AnnotateConfig
    from emoray.training.config import LaunchConfig
    from emoray_jobs.config import ClusterConfig

#: In place of a condition's name: the first one of each version.
FIRST = "first"


@dataclass(frozen=True)
class Judge:
    """The gate of a configuration.

    Attributes:
        corpus: Name of the corpus whose gate split decides.
        threads: Threads of the scorer as it is served.
        duration_edges_s: Edges of the groups `duration`.
    """

    lake: Lake
    tracking: Tracking
    policy: GateConfig
    corpus: str
    annotate: AnnotateConfig
    cluster: ClusterConfig
    launch: LaunchConfig
    threads: int
    duration_edges_s: Sequence[float]

    def judge(self, challenger: Version, champion: Version | None, attempt: int) -> tuple[Decision, dict[str, Any]]:
        """Decide on a challenger.

        Args:
            attempt: How many challengers this champion has been compared with, this one included.

        Returns:
            The decision, and digests of what it rests on: policy and gate data.

        Raises:
            InputError: The corpus has nothing to decide on.
            RegistryError: A version's files are gone.
        """
        splits = self.lake.utterances(self.corpus, ["split"])["split"].unique().to_pylist()
        split, note = gate.gate_split(splits)
        both = [one for one in (challenger, champion) if one is not None]
        bundles = [open_bundle(versions.fetch(self.tracking, one)) for one in both]
        judged = conditions(bundles, self.policy)
        levels = [{name: level_under(one, self.policy.level, name) for name in judged} for one in bundles]
        frames = self._frames(bundles, judged, levels, split)
        found = [
            self._candidate(one, bundle, parts, names, latency=one is challenger or self._compares_latency)
            for one, bundle, parts, names in zip(both, bundles, frames, levels, strict=True)
        ]
        decision = gate.decide(
            found[0],
            found[1] if champion is not None else None,
            self.policy,
            clean=self._clean(challenger),
            attempt=attempt,
            note=note,
        )
        data = frames[0][0].select("utterance_id", "split", pl.col("^.*_true$")).write_csv()
        policy = self.policy.model_dump(mode="json")
        return decision, {"corpus": self.corpus, "data_digest": digest(data), "policy_digest": digest(policy)}

    @property
    def _compares_latency(self) -> bool:
        return self.policy.max_latency_ratio is not None

    def _frames(
        self, bundles: Sequence[Bundle], judged: Sequence[str], levels: Sequence[dict[str, str]], split: str
    ) -> list[list[pl.DataFrame]]:
        """Per version a frame per condition (`level` is its name), all of the same clips."""
        found = []
        with contextlib.ExitStack() as stack:
            for bundle, names in zip(bundles, levels, strict=True):
                frame = predictions(
                    self.lake,
                    bundle,
                    [split],
                    list(dict.fromkeys(names.values())),
                    corpus=self.corpus,
                    annotate=self.annotate,
                    cluster=self.cluster,
                    launch=self.launch,
                    stack=stack,
                )
                frame = self._with_group_columns(frame)
                # A condition that counts twice is there twice.
                found.append(
                    [frame.filter(pl.col("level") == names[name]).with_columns(level=pl.lit(name)) for name in judged]
                )
        # What one version's audio rules refuse, or what enrols a speaker, is judged for neither.
        common = set.intersection(*(set(frame["utterance_id"]) for frames in found for frame in frames))
        return [
            [frame.filter(pl.col("utterance_id").is_in(common)).sort("utterance_id") for frame in frames]
            for frames in found
        ]

    def _with_group_columns(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add the policy's group columns that the predictions lack and the utterances table has."""
        frame = with_duration_bucket(frame, self.duration_edges_s)
        simple = {one.name for one in UTTERANCES if pa.types.is_string(one.type) or pa.types.is_integer(one.type)}
        further = [name for name in self.policy.group_columns if name not in frame.columns and name in simple]
        if not further:
            return frame
        table = pl.DataFrame(self.lake.utterances(self.corpus, ["utterance_id", *further]))
        return frame.join(table, on="utterance_id", how="left", maintain_order="left")

    def _candidate(
        self,
        version: Version,
        bundle: Bundle,
        frames: list[pl.DataFrame],
        levels: dict[str, str],
        *,
        latency: bool,
    ) -> Candidate:
        folder = versions.model_folder(self.tracking, version)
        signature = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8")).get("signature") or {}
        return Candidate(
            frames=frames,
            latency=self._latency(version, frames[0]) if latency else Latency(np.nan, np.nan, 0),
            dimensional=bundle.dimensional,
            classes=tuple(bundle.config.classes),
            scale=bundle.scale,
            signature={part: json.loads(signature.get(part) or "[]") for part in ("inputs", "outputs", "params")},
            size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            + total_bytes(folder / "artifacts" / "bundle"),
            coverage=_coverage(bundle, frames, levels),
            coverage_level=bundle.conformal_level,
            tags=version.tags,
        )

    def _latency(self, version: Version, judged: pl.DataFrame) -> Latency:
        """Single clips from sound and transcript to the score, all stages in this process."""
        scorer = load_bundle(versions.fetch(self.tracking, version))
        ids = judged["utterance_id"].sort()
        count = self.policy.latency_clips
        chosen = ids.gather_every(max(1, len(ids) // count))[:count]
        rows = utterance_rows(self.lake, self.corpus, chosen.to_list(), scorer.bundle)
        with torch_threads(self.threads):
            return gate.measure_latency(scorer, [request_of(row, {}) for row in rows])

    def _clean(self, version: Version) -> clean_process.CleanCheck | None:
        if not self.policy.clean_process:
            return None
        policy = self.policy
        return clean_process.check(
            versions.model_folder(self.tracking, version),
            policy.clean_process_timeout_s,
            tracking_uri=self.tracking.uri,
            install_s=policy.fresh_environment_timeout_s if policy.fresh_environment else None,
        )


def _coverage(bundle: Bundle, frames: Sequence[pl.DataFrame], levels: dict[str, str]) -> dict[str, float]:
    """Share of labels within the version's intervals, per dimension: mean over the conditions."""
    if not bundle.dimensional:
        return {}
    shares: dict[str, list[float]] = {}
    for frame in frames:
        level = levels[str(frame["level"][0])]
        for name, share in conformal.coverage(frame.with_columns(level=pl.lit(level)), bundle.half_widths)[
            level
        ].items():
            shares.setdefault(name, []).append(share)
    return {name: float(np.mean(found)) for name, found in shares.items()}


def conditions(bundles: Sequence[Bundle], policy: GateConfig) -> list[str]:
    """Names of the conditions to judge under: those that all versions know, each as often as it counts.

    A version of the sound alone knows every source of words, and every state of the speaker unless it measures sound
    against speakers. Where two know none in common, each is judged under its first.

    Raises:
        ConfigError: A condition that counts is not known.
    """
    bound = [one for one in bundles if one.granularities]
    bound = bound or [one for one in bundles if one.config.encoder.speaker_norms]
    names = [one.name for one in bound[0].conditions] if bound else []
    common = [name for name in names if all(_knows(one, name) for one in bundles)]
    if not common:
        return [FIRST]
    unknown = sorted(set(policy.conditions) - set(common))
    if unknown:
        raise ConfigError(
            f"the versions do not both know the condition {unknown[0]!r}",
            where="promote.conditions",
            remedy=f"They know {', '.join(common)}",
            kind="unknown_condition",
        )
    weights = policy.conditions or dict.fromkeys(common, 1)
    return [name for name in common for _ in range(weights.get(name, 0))]


def _knows(bundle: Bundle, name: str) -> bool:
    fitted = [one.name for one in bundle.conditions]
    if bundle.granularities:
        return name in fitted
    clips = [Condition.named(one).enrol_clips for one in fitted]
    return not bundle.config.encoder.speaker_norms or Condition.named(name).enrol_clips in clips


def level_under(bundle: Bundle, level: str, condition: str) -> str:
    """Name of a semantic level of a version under a condition."""
    level = level if bundle.granularities else "audio"
    return level if condition == FIRST else bundle.level_name(level, condition)


def report(decision: Decision) -> list[str]:
    """A decision as lines: where it was made, and a line per rule."""
    lines = [f"Decided on {decision.split}, {_under(decision)}:"]
    lines += [f"  {'yes' if check.passed else 'NO '}  {check.message}." for check in decision.checks]
    if decision.figures["note"]:
        lines.append(f"  note: {decision.figures['note']}.")
    return lines


def _under(decision: Decision) -> str:
    names = list(dict.fromkeys(decision.figures["levels"]))
    if names == [FIRST]:
        return "with all that each version reads"
    titles = "; ".join(Condition.named(name).title for name in names)
    return f"mean over the conditions: {titles}" if len(names) > 1 else titles
