"""How what is wrong with an input is gathered, so that one message says all of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...gligen_ops.errors import GligenError


class Problems:
    """What is wrong with an input, line by line, each line with its place."""

    def __init__(self):
        self.lines: list[str] = []
        self._place = ""

    def add(self, problem: str) -> None:
        self.lines.append(f"{self._place}{problem}")

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """What is added inside is at this place. So is a GligenError, which ends there."""
        outer = self._place
        self._place = f"{outer}{place}: " if place else outer
        try:
            yield
        except GligenError as error:
            self.add(str(error))
        finally:
            self._place = outer

    def refuse(self, heading: str = "", cure: str = "") -> None:
        """Raises a GligenError of all lines, between a heading and what to do, where there are any."""
        if self.lines:
            raise GligenError("\n".join(filter(None, [heading, *self.lines, cure])))


def from_json(text: str) -> Any:
    """What a text says as JSON, every number as a float. Raises GligenError where it is none."""
    try:
        return json.loads(text, parse_int=float)
    except json.JSONDecodeError as error:
        raise GligenError(
            f"it stops making sense at line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error
    except RecursionError as error:
        raise GligenError("its brackets are nested too deeply.") from error


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
