"""A digit's pixels → the strokes of a pen that would write it."""

from __future__ import annotations

import numpy as np

from tests.service.pictures import Bytes

INK = 100
"""Of 255: from here on a pixel is written on."""
NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
LIFT = 1.5
"""Pixels; over a longer way the pen is lifted."""

Point = tuple[int, int]


def strokes(digit: Bytes) -> list[list[tuple[float, float]]]:
    """Lists of (x, y) in [0, 1]; each goes from a pixel of the digit's skeleton to the next one near it."""
    left = skeleton(digit >= INK)
    found: list[list[Point]] = []
    while left:
        at = min(left, key=lambda point: len(_near(point, left)))  # an end of the line, where it has one
        line = [at]
        left.remove(at)
        while near := _near(at, left):
            at = near[0]
            left.remove(at)
            line.append(at)
        joint = _near(line[-1], {point for other in found for point in other})
        found.append(line + joint[:1])
    side = len(digit)
    return [[((x + 0.5) / side, (y + 0.5) / side) for y, x in line] for line in found]


def skeleton(ink: np.ndarray) -> set[Point]:
    """Thinned to lines of one pixel (Zhang and Suen 1984)."""
    left = {(int(y), int(x)) for y, x in np.argwhere(ink)}
    while True:
        before = len(left)
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            left -= {point for point in left if _can_go(point, left, first, second)}
        if len(left) == before:
            return left


def _can_go(point: Point, left: set[Point], first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    y, x = point
    ring = [(y + dy, x + dx) in left for dy, dx in NEIGHBOURS]
    turns = sum(not here and there for here, there in zip(ring, ring[1:] + ring[:1], strict=True))
    return 2 <= sum(ring) <= 6 and turns == 1 and not all(ring[i] for i in first) and not all(ring[i] for i in second)


def _near(point: Point, points: set[Point]) -> list[Point]:
    distances = {other: float(np.hypot(other[0] - point[0], other[1] - point[1])) for other in points}
    return sorted((other for other, distance in distances.items() if 0 < distance <= LIFT), key=distances.__getitem__)
