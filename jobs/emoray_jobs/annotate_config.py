"""Configuration of what surrounds annotate: its plan and its summary."""

from __future__ import annotations

from emoray.config import Section


class PlanConfig(Section):
    """What `annotate --plan` says of the work ahead.

    Attributes:
        calibrate_rows: Utterances that `--calibrate` measures each stage with.
        price_per_cpu_hour: What a core costs for an hour, in any currency; null leaves the price out.
        price_per_gpu_hour: Likewise for a GPU.
    """

    calibrate_rows: int
    price_per_cpu_hour: float | None
    price_per_gpu_hour: float | None


class SummaryConfig(Section):
    """What is done with annotate's summary besides printing it.

    Attributes:
        track: Whether a run that computed something becomes a run in the tracking store.
    """

    track: bool
