"""Masks: the masks of a batch, with one bit for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C import _from_dlpack

from fastload import _core
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.masks import MaskPlan


@dataclass(frozen=True, eq=False)
class Masks(Sequence[Tensor]):
    """The masks of the M boxes of B images, all images after one another.

        masks = targets.masks
        masks[0]  # (n, H, W) uint8: those of the first image
        masks.to("cuda").dense()  # (M, H, W) bool: an eighth of the bytes is copied

    Args:
        bits: (M, H, ceil(W / 8)) uint8. Bit k of byte j of a row, the lowest bit first, is pixel 8 j + k.
        offsets: (B + 1) on the host: image i has the masks offsets[i] to offsets[i + 1].
        size: height and width in pixels.
    """

    bits: Tensor
    offsets: tuple[int, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, i: int) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> list[Tensor]: ...
    def __getitem__(self, i: int | slice) -> Tensor | list[Tensor]:
        """The masks of image i: (n, H, W) uint8, 1 inside, on the device of the bits."""
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]  # raises IndexError, which ends iteration
        return self._unpacked(self.bits[self.offsets[i] : self.offsets[i + 1]])

    def dense(self) -> Tensor:
        """Return all masks: (M, H, W) bool, on the device of the bits."""
        return self._unpacked(self.bits).view(torch.bool)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Masks:
        """Return the masks on `device`."""
        return replace(self, bits=self.bits.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Masks:
        """A copy in page-locked memory."""
        return replace(self, bits=self.bits.pin_memory())

    def _unpacked(self, bits: Tensor) -> Tensor:
        width = self.size[1]
        if bits.device.type == "cpu":  # several times as fast as by torch
            return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1, count=width, bitorder="little"))
        places = torch.arange(8, dtype=torch.uint8, device=bits.device)
        return ((bits[..., None] >> places) & 1).flatten(2)[..., :width].contiguous()


class DrawnMasks(NamedTuple):
    """The masks of a batch as an engine draws them.

    Args:
        bits: as in `Masks`.
        extents: (M, 5) int64 x0, y0, x1, y1 of the box around each mask, in pixels of it, and the number of its pixels;
            zeros if it is empty. None: not measured.
    """

    bits: Tensor
    extents: Tensor | None

    def keep(self, kept: NDArray[np.bool_]) -> DrawnMasks:
        """Return the masks where `kept` (M) is set."""
        # By NumPy: after indexing a large tensor, torch's threads spin for longer than the copy takes.
        bits, extents = (None if part is None else torch.from_numpy(part.numpy()[kept]) for part in self)
        assert bits is not None
        return DrawnMasks(bits, extents)


def drawn_masks(capsules: tuple[Any, Any]) -> DrawnMasks:
    """Convert what the core returns to tensors."""
    bits, extents = capsules
    return DrawnMasks(_from_dlpack(bits), None if extents is None else _from_dlpack(extents))


def draw_masks(plan: BatchPlan, masks: MaskPlan) -> tuple[DrawnMasks, dict[int, str]]:
    """Draw the masks of a placed plan of one batch in this thread.

    Returns:
        The masks, and {row: reason} for each row with an annotation that cannot be drawn.
    """
    capsules, failures = _core.draw_masks(plan, masks)
    return drawn_masks(capsules), failures
