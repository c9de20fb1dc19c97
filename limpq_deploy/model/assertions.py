"""What a forward asks of values only to stop: ``assert x.min() >= 0``, ``if x.isnan().any(): raise``.

Wherever the model has a result, the assertion held and the branch was not taken.
"""

import ast
import linecache
from collections.abc import Iterator
from functools import cache
from itertools import islice
from types import FrameType

Position = tuple[int | None, int | None, int | None, int | None]
"""First and last line of an expression, and its first and last column there."""


def asserted(frame: FrameType) -> bool | None:
    """What the truth value that a frame asks for must be, so that its statement does not raise; None where that does
    more than raise."""
    conditions = _conditions(frame.f_code.co_filename)
    asking = frame.f_lasti // 2  # a jump, which may have its statement's position, behind what computes the condition
    for position in islice(frame.f_code.co_positions(), max(0, asking - 1), asking + 1):
        if position in conditions:
            return conditions[position]
    return None


@cache
def _conditions(path: str) -> dict[Position, bool]:
    """Of every condition of a file's assertions whose error is not caught around it, which is another way to go."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return {}
    found: dict[Position, bool] = {}
    caught = set(_caught(tree))
    for statement in ast.walk(tree):
        if statement in caught:
            continue
        if isinstance(statement, ast.Assert):
            found.update(_parts(statement.test, holds=True))
        elif isinstance(statement, ast.If) and all(isinstance(one, ast.Raise) for one in statement.body):
            found.update(_parts(statement.test, holds=False))
    return found


def _caught(tree: ast.AST) -> Iterator[ast.AST]:
    """All that stands where an error may be caught."""
    for one in ast.walk(tree):
        if isinstance(one, ast.Try | ast.TryStar):
            catches = bool(one.handlers)
        else:
            catches = isinstance(one, ast.With) and any("suppress" in ast.unparse(item) for item in one.items)
        for inside in one.body if catches else ():  # type: ignore[attr-defined]
            yield from ast.walk(inside)


def _parts(test: ast.expr, *, holds: bool) -> Iterator[tuple[Position, bool]]:
    """A condition and those that it is made of, and whether each must hold."""
    yield (test.lineno, test.end_lineno, test.col_offset, test.end_col_offset), holds
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _parts(test.operand, holds=not holds)
    elif isinstance(test, ast.BoolOp):
        for one in test.values:
            yield from _parts(one, holds=holds)
