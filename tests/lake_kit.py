"""What tests read back from stage tables."""

from __future__ import annotations

import pyarrow.dataset as pads

from emoray.lake.tables import Lake


def done_ids(lake: Lake, stage: str, fingerprint: str, *, with_failed: bool = True) -> set[str]:
    """Ids that have an outcome in a stage table."""
    columns = {"utterance_id": pads.field("utterance_id"), "failed": ~pads.field("error").is_null()}
    table = lake.read_stage(stage, fingerprint, columns)
    return (
        set()
        if table is None
        else {row["utterance_id"] for row in table.to_pylist() if with_failed or not row["failed"]}
    )
