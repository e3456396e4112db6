"""The gate's rules on a version itself: its intervals, speed, size, outputs, tags and approvals."""

from __future__ import annotations

from typing import Any

from emoray.registry.candidate import Candidate, Check
from emoray.registry.config import GateConfig


def checks(version: Candidate, champion: Candidate | None, config: GateConfig) -> list[Check]:
    """The rules in order; those whose limit is null, or that have nothing to look at, are left out."""
    found = [_coverage(version, config), _same(version, champion, config), _latency(version, config)]
    found += [_latency_ratio(version, champion, config), _size(version, config)]
    found += [_tags(version, config), _approvals(version, config)]
    return [check for check in found if check is not None]


def _coverage(version: Candidate, config: GateConfig) -> Check | None:
    if config.max_coverage_shortfall is None or not version.coverage:
        return None
    least = version.coverage_level - config.max_coverage_shortfall
    short = [name for name, share in version.coverage.items() if share < least]
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in version.coverage.items())
    text = f"The {100 * version.coverage_level:g} % intervals hold {shares} of the labels"
    return Check("coverage", not short, f"{text}: less than {100 * least:g} %" if short else text)


def _same(version: Candidate, champion: Candidate | None, config: GateConfig) -> Check | None:
    if champion is None or not config.same:
        return None
    facts: dict[str, list[Any]] = {
        "classes": [(sorted(one.classes), one.dimensional) for one in (version, champion)],
        "scale": [one.scale for one in (version, champion)],
    }
    texts = {
        "classes": [_outputs(one) for one in (version, champion)],
        "scale": ["unknown" if one.scale is None else "{:g} to {:g}".format(*one.scale) for one in (version, champion)],
    }
    parts = [
        f"{name}: {texts[name][0]}, not {texts[name][1]}"
        for name in config.same
        if name in facts and facts[name][0] != facts[name][1]
    ]
    if "signature" in config.same and (broken := _broken(version, champion)):
        parts.append(f"signature: {broken}")
    if parts:
        return Check(
            "same", False, f"Not as the champion, {'; '.join(parts)}. Where that is wanted, change promote.same"
        )
    return Check("same", True, f"As the champion: {', '.join(config.same)}")


def _broken(version: Candidate, champion: Candidate) -> str:
    """What callers of the champion's MLflow model would miss; more outputs and optional inputs break nobody."""
    new, old = version.signature, champion.signature
    gone = [one["name"] for part in old for one in old[part] if one not in new.get(part, ())]
    known = {one["name"] for one in old.get("inputs", ())}
    asked = [one["name"] for one in new.get("inputs", ()) if one.get("required") and one["name"] not in known]
    said = [f"{', '.join(gone)} gone or of another type"] if gone else []
    return " and ".join(said + ([f"{', '.join(asked)} required"] if asked and old else []))


def _outputs(version: Candidate) -> str:
    parts = ["dimensions"] if version.dimensional else []
    return " and ".join(parts + (["classes " + ", ".join(sorted(version.classes))] if version.classes else []))


def _latency(version: Candidate, config: GateConfig) -> Check:
    latency = version.latency
    passed = latency.p95_ms <= config.latency_budget_ms
    relation = "within" if passed else "over"
    return Check(
        "latency",
        passed,
        f"p95 latency {latency.p95_ms:.0f} ms per clip over {latency.clips} clips, {relation} the budget of"
        f" {config.latency_budget_ms:g} ms",
    )


def _latency_ratio(version: Candidate, champion: Candidate | None, config: GateConfig) -> Check | None:
    if champion is None or config.max_latency_ratio is None:
        return None
    ratio = version.latency.p95_ms / champion.latency.p95_ms
    passed = ratio <= config.max_latency_ratio
    text = f"{ratio:.2f} times the champion's p95 latency of {champion.latency.p95_ms:.0f} ms"
    over = "" if passed else f": more than {config.max_latency_ratio:g} times"
    return Check("latency_ratio", passed, text + over)


def _size(version: Candidate, config: GateConfig) -> Check | None:
    if config.max_size_mib is None:
        return None
    size = version.size_bytes / 2**20
    passed = size <= config.max_size_mib
    return Check(
        "size", passed, f"{size:.1f} MiB, {'within' if passed else 'over'} the limit of {config.max_size_mib:g}"
    )


def _tags(version: Candidate, config: GateConfig) -> Check | None:
    if not config.required_tags:
        return None
    missing = [name for name in config.required_tags if not version.tags.get(name)]
    text = f"The version lacks the tags {', '.join(missing)}" if missing else "The version has all required tags"
    return Check("tags", not missing, text)


def _approvals(version: Candidate, config: GateConfig) -> Check | None:
    if not config.approvals:
        return None
    missing = [f"{name}: {value}" for name, value in config.approvals.items() if version.tags.get(name) != value]
    given = ", ".join(f"{name}: {value}" for name, value in config.approvals.items())
    text = f"The version's tags lack the approval {', '.join(missing)}" if missing else f"Approved: {given}"
    return Check("approvals", not missing, text)
