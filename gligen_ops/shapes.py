"""What the shapes of a file's tensors say of the sizes of its model."""

from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]
Axes = tuple[str | int, ...]
"""What each axis of a tensor is: a number, or the name of a size, which is any above 0."""
UNREAD = 32


def fits(shape: tuple[int, ...], axes: Axes) -> bool:
    """Whether a tensor of this shape has these axes."""
    return len(shape) == len(axes) and all(
        n > 0 and (n == axis or isinstance(axis, str)) for n, axis in zip(shape, axes, strict=True)
    )


class Sizes:
    """The sizes of a model, each read from the one tensor that decides it.

    `unread` has the tensors that are missing or have other axes, and the axes that they should have. The
    sizes that they decide are `UNREAD`, so that the model can be built all the same, for the names of all
    its tensors."""

    def __init__(self, shapes: Shapes):
        self.shapes = shapes
        self.unread: dict[str, Axes] = {}

    def read(self, tensor: str, axes: Axes) -> dict[str, int]:
        """The sizes that this tensor decides, by the names in its axes."""
        shape = self.shapes.get(tensor, ())
        if not fits(shape, axes):
            self.unread[tensor] = axes
            shape = (UNREAD,) * len(axes)
        named = zip(axes, shape, strict=True)
        return {axis: n for axis, n in named if isinstance(axis, str)}
