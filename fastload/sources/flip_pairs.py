"""Which keypoints are exchanged when an image is mirrored, as datasets state it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

FlipPairs = tuple[tuple[int, int], ...]

# A side in a name: left_eye, eye-left, LEFT_EYE, leftEye, L_Eye, but neither "lip" nor "bright".
_SIDE = re.compile(r"(?<![A-Za-z])([Ll]eft|[Rr]ight|LEFT|RIGHT|[LlRr])(?![a-z])")
_SIDES = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("l", "r"), ("L", "R"))
_OPPOSITE = {side: other for pair in _SIDES for side, other in (pair, pair[::-1])}


def pairs_of_names(lists: Iterable[Sequence[Any]]) -> FlipPairs:
    """Return the pairs of keypoints whose names differ by left and right only.

    Args:
        lists: the names of the keypoints of each category. All categories number them alike.

    Raises:
        ValueError: a keypoint has a partner in one category, and another or none in a further one.
    """
    pairs_of = {tuple(map(str, names)): _pairs(names) for names in lists}
    found = tuple(sorted(set().union(*pairs_of.values())))
    for names, pairs in pairs_of.items():
        if {pair for pair in found if pair[0] < len(names)} != pairs:
            raise ValueError("the categories number left and right keypoints differently")
    return found


def _pairs(names: Sequence[Any]) -> set[tuple[int, int]]:
    position = {name: i for i, name in enumerate(names) if isinstance(name, str)}
    others = ((i, position.get(_SIDE.sub(lambda side: _OPPOSITE[side[0]], name), i)) for name, i in position.items())
    return {(min(pair), max(pair)) for pair in others if pair[0] != pair[1]}


def pairs_of_order(order: Sequence[int]) -> FlipPairs:
    """Return the pairs of a permutation that lists which keypoint takes the place of each one.

    Raises:
        ValueError: applied twice, the permutation does not restore the order.
    """
    if any(order[other] != one for one, other in enumerate(order)):
        raise ValueError("it does not exchange keypoints in pairs")
    return tuple((one, other) for one, other in enumerate(order) if one < other)
