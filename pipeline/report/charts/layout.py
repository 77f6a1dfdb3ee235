"""Places for marks and names in a panel, so that none hides another. All numbers are pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.report.charts.frame import CHARACTER

Point = tuple[float, float]
#: Left, top, right, bottom.
Box = tuple[float, float, float, float]
#: Marks closer than this would hide each other.
NEAR = 7.0


class Occupied:
    """The boxes inside `bounds` that marks and names take already."""

    def __init__(self, bounds: Box) -> None:
        self._bounds = bounds
        self._boxes: list[Box] = []

    def add(self, box: Box) -> None:
        self._boxes.append(box)

    def add_text(self, x: float, y: float, label: str) -> None:
        self.add(_text_box(x, y, label))

    def first_free(self, spots: Iterable[Point], label: str) -> Point | None:
        """Return the first spot where `label` can begin without hiding anything."""
        return next((spot for spot in spots if self._fits(_text_box(*spot, label))), None)

    def _fits(self, box: Box) -> bool:
        left, top, right, bottom = self._bounds
        inside = box[0] >= left and box[1] >= top and box[2] <= right and box[3] <= bottom
        return inside and not any(_overlap(box, other) for other in self._boxes)


def side_by_side(positions: Sequence[float]) -> list[float]:
    """Return shifts that put marks at nearly the same x position next to each other, in order."""
    groups: list[list[int]] = []
    for index in sorted(range(len(positions)), key=positions.__getitem__):
        if groups and positions[index] - positions[groups[-1][-1]] < NEAR:
            groups[-1].append(index)
        else:
            groups.append([index])
    shifts = [0.0] * len(positions)
    for group in (group for group in groups if len(group) > 1):
        middle = sum(positions[index] for index in group) / len(group)
        for rank, index in enumerate(sorted(group)):
            shifts[index] = middle + (rank - (len(group) - 1) / 2) * 2 * NEAR - positions[index]
    return shifts


def _text_box(x: float, y: float, label: str) -> Box:
    return x, y - 10, x + CHARACTER * len(label), y + 3


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
