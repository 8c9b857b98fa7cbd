"""What a pickle would cost, counted before it is read: a few bytes of one can ask for gigabytes or hours.

Opcodes: pickletools of Python's standard library.
"""

import pickletools
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ..errors import GligenError

DEEPEST = 100
"""How deeply values may be nested: those of a model are less than ten."""
LARGEST = 20_000_000
"""How many values one may hold, counted as often as they are in it: hashing and comparing go through all."""
SPARE = 1000
"""How many numbers of values may be left out: Python 2 counts from 1."""
MARK = object()


class Cost(NamedTuple):
    depth: int = 0
    count: int = 1


def too_much() -> GligenError:
    return GligenError(
        "is a pickle that asks for far more memory or time than a model needs: get the model from a source "
        "you trust, best as safetensors."
    )


def checked(file: BinaryIO) -> list[str]:
    """The texts in the pickle at the file's place, each once, in order; the file is behind it afterwards.
    Raises GligenError: what it says follows on the file's name."""
    stack: list = []
    memo: dict[int, Cost] = {}
    texts: dict[str, None] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if isinstance(argument, str):
            texts[argument] = None
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(memo) if name == "MEMOIZE" else int(argument)
            if number > len(memo) + SPARE:  # the reader makes room for all below it
                raise too_much()
            memo[number] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif name == "MARK":
            stack.append(MARK)
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            _run(opcode, stack)
    return [*texts]


def _run(opcode, stack: list) -> None:
    """What an opcode takes from the stack and leaves there."""
    taken = list(_taken(opcode, stack))
    left = len(opcode.stack_after)
    if not left:
        return
    depth = max((cost.depth for cost in taken), default=-1) + 1
    count = 1 + sum(cost.count for cost in taken)
    if opcode.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"):
        *values, whole = taken  # which stays as it is, with the values in it
        depth = max([whole.depth, *(cost.depth + 1 for cost in values)])
    if depth > DEEPEST or count > LARGEST:
        raise too_much()
    stack.extend([Cost(depth, count)] * left)


def _taken(opcode, stack: list) -> Iterator[Cost]:
    """The values that an opcode takes, the last first, down to the mark where it takes one."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        while (top := stack.pop()) is not MARK:
            yield top
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        yield stack.pop()
