"""Widths of a model from the shapes of its tensors: where one is wrong, the others outvote it."""

from collections import Counter
from collections.abc import Iterable, Mapping

Shapes = Mapping[str, tuple[int, ...]]


def vote(shapes: Shapes, name: str, axes: int, axis: int) -> list[int]:
    """The size of a tensor along an axis; none where it is missing or has other than so many axes."""
    shape = shapes.get(name, ())
    return [shape[axis]] if len(shape) == axes else []


def agreed(votes: Iterable[int], otherwise: int) -> int:
    """What most of the votes above 0 say; `otherwise` where there are none."""
    most = Counter(n for n in votes if n > 0).most_common(1)
    return most[0][0] if most else otherwise
