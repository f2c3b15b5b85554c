"""Checks of plans before engines execute them. The core repeats those of `check_plan` for the native engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.errors import PlanError
from fastload.plan.batch_plan import ADJUST, EQUALIZE, FILL, FILTERS, BatchPlan

COLOR_LIMIT, OFFSET_LIMIT, CROP_LIMIT, CANVAS_LIMIT = 8, 2048, 1e6, 65535
HSV_MIDDLE, HSV_REACH = (0, 4, 0, 4, 0), (1024, 4, 8, 4, 2048)  # gains are from 0 to 8
REMEDY = 'Use engine="native", or remove the transform.'


def check_plan(plan: BatchPlan, records: int) -> None:
    """Check that a plan refers to the `records` records of its cache and draws within its canvases.

    Raises:
        PlanError: the plan is invalid.
    """
    slots = len(plan.canvases)
    limit = plan.canvases.take(plan.slot, 0, mode="clip")
    corner, size = plan.clip[:, :2].astype(np.int64), plan.clip[:, 2:].astype(np.int64)
    position, extent = plan.crop[:, :2], plan.crop[:, 2:]
    conditions = {
        f"the sides of a canvas must be 1 to {CANVAS_LIMIT} pixels": bool(
            (plan.canvases >= 1).all() and (plan.canvases <= CANVAS_LIMIT).all()
        ),
        "a row's index is not that of a record": _within(
            plan.index[(plan.index != FILL) & (plan.index != ADJUST)], records
        ),
        "rows must be sorted by slot, and slots must exist in the plan": _within(plan.slot, slots)
        and bool((np.diff(plan.slot) >= 0).all()),
        "a row's clip is empty or reaches beyond its canvas": bool(
            (corner >= 0).all() and (size >= 1).all() and (corner + size <= limit).all()
        ),
        "a row's crop is empty, not finite or too large": bool(
            np.isfinite(position).all() and (extent > 0).all() and (extent <= CROP_LIMIT).all()
        ),
        "a row's matrix is not finite or has no inverse": _invertible(plan),
        "a row's filter is not a position in FILTERS": plan.filter is None or _within(plan.filter, len(FILTERS)),
        "a row's alpha is not from 0 to 1": plan.alpha is None or bool(((plan.alpha >= 0) & (plan.alpha <= 1)).all()),
        "a row's hsv is out of range": plan.hsv is None or bool((np.abs(plan.hsv - HSV_MIDDLE) <= HSV_REACH).all()),
        "the plan's tables are not (T, 3, 256)": plan.tables is None
        or (plan.tables.ndim == 3 and plan.tables.shape[1:] == (3, 256)),
        "a row's table is not in the plan's tables": plan.table is None
        or bool(((plan.table >= EQUALIZE) & (plan.table < (0 if plan.tables is None else len(plan.tables)))).all()),
        "a row's layer is negative": plan.layer is None or bool((plan.layer >= 0).all()),
        "a layer's first row is not a FILL row": plan.layer is None or _begin_with_fill(plan, plan.layer),
        f"a row's color matrix exceeds +-{COLOR_LIMIT}, or its offset +-{OFFSET_LIMIT}": bool(
            (np.abs(plan.color[:, :, :3]) <= COLOR_LIMIT).all() and (np.abs(plan.color[:, :, 3]) <= OFFSET_LIMIT).all()
        ),
    }
    if violated := [condition for condition, holds in conditions.items() if not holds]:
        raise PlanError(f"this plan cannot be executed: {violated[0]}")


def check_whole(plan: BatchPlan) -> None:
    """Check that no objects are cut out. Raises PlanError if some are."""
    if plan.objects is not None and (plan.objects >= 0).any():
        raise PlanError(f"this engine does not cut out objects. {REMEDY}")


def check_simple(plan: BatchPlan) -> None:
    """Check that a plan has only what DALI draws: opaque, axis-aligned sources side by side, resampled bilinearly.

    Raises:
        PlanError: it has more. The message says what, and names an engine that draws it.
    """
    if plan.warp is not None and not plan.is_aligned.all():
        raise PlanError(f"the DALI engine does not rotate or shear images. {REMEDY}")
    if plan.alpha is not None and not (plan.alpha == 1).all():
        raise PlanError(f"the DALI engine does not blend images. {REMEDY}")
    if plan.filter is not None and (plan.filter != 0).any():
        name = FILTERS[int(plan.filter[plan.filter != 0][0])]
        raise PlanError(f'the DALI engine does not resample with the filter "{name}". {REMEDY}')
    check_whole(plan)
    if (plan.index == ADJUST).any():
        raise PlanError(f"the DALI engine changes colors by matrices only. {REMEDY}")
    if (plan.index == FILL).any():
        raise PlanError(f"the DALI engine does not fill parts of images with a color. {REMEDY}")
    low, high = plan.clip[:, :2], plan.clip[:, :2] + plan.clip[:, 2:]
    for distance in range(1, int(np.bincount(plan.slot).max(initial=1))):
        one, other = slice(distance, None), slice(None, -distance)
        common = (np.maximum(low[one], low[other]) < np.minimum(high[one], high[other])).all(1)
        if (common & (plan.slot[one] == plan.slot[other])).any():
            raise PlanError(f"the DALI engine does not draw images over others. {REMEDY}")


def _within(values: NDArray[Any], end: int) -> bool:
    return bool(((values >= 0) & (values < end)).all())


def _begin_with_fill(plan: BatchPlan, layer: NDArray[np.int32]) -> bool:
    """Whether the first row of every layer above 0 is a FILL row."""
    begins = np.ones(len(layer), np.bool_)
    begins[1:] = (layer[1:] != layer[:-1]) | (plan.slot[1:] != plan.slot[:-1])
    return bool((plan.index[begins & (layer > 0)] == FILL).all())


def _invertible(plan: BatchPlan) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):  # such matrices are an error, not a warning
        m = plan.matrix.astype(np.float64)
    if plan.warp is not None:
        np.copyto(m, plan.warp, where=~plan.is_aligned[:, None, None])  # so that NaN is found anywhere in a warp
    if not np.isfinite(m).all():
        return False
    determinant = m[:, 0, 0] * m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0]
    return bool((determinant != 0).all())
