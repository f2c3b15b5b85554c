"""What every plan must fulfil before an engine in Python executes it. (The native core checks for itself.)"""

from __future__ import annotations

import numpy as np

from fastload.errors import PlanError
from fastload.plan.batch_plan import BatchPlan

COLOR_LIMIT, OFFSET_LIMIT, CROP_LIMIT = 8, 2048, 1e6


def check_plan(plan: BatchPlan, records: int) -> None:
    """PlanError unless the plan reads some of `records` records and writes within its canvases."""
    slots = len(plan.canvases)
    limit = plan.canvases[:, ::-1].take(plan.slot, 0, mode="clip")
    corner, size = plan.rect[:, :2].astype(np.int64), plan.rect[:, 2:].astype(np.int64)
    position, extent = plan.crop[:, :2], plan.crop[:, 2:]
    conditions = {
        "no record of that index": _within(plan.index, records),
        "rows must be sorted by slot, and slots be those of the plan": _within(plan.slot, slots)
        and bool((np.diff(plan.slot) >= 0).all()),
        "a row's rect is empty or reaches beyond its canvas": bool(
            (corner >= 0).all() and (size >= 1).all() and (corner + size <= limit).all()
        ),
        "a row's crop is empty, not finite or absurdly large": bool(
            np.isfinite(position).all() and (extent > 0).all() and (extent <= CROP_LIMIT).all()
        ),
        f"a row's colour matrix exceeds +-{COLOR_LIMIT}, or its offset +-{OFFSET_LIMIT}": bool(
            (np.abs(plan.color[:, :, :3]) <= COLOR_LIMIT).all() and (np.abs(plan.color[:, :, 3]) <= OFFSET_LIMIT).all()
        ),
    }
    if broken := [complaint for complaint, holds in conditions.items() if not holds]:
        raise PlanError(f"this plan cannot be executed: {broken[0]}")


def _within(values: np.ndarray, end: int) -> bool:
    return bool(((values >= 0) & (values < end)).all())
