"""The one exception this pack raises on purpose."""


class GligenError(ValueError):
    """Something the user gave cannot be used: says which input, what came and what to do."""
