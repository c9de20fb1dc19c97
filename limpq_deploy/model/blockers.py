"""All that stops a model, told at once: each kind of it in a sentence with the user's line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.lines import written_at
from limpq_deploy.model.operations import SUPPORTED

SHOWN = 3
"""So many of the lines of one kind are named."""


class Blocked(ModelError):
    """A model that several things stop. ``reasons``: a sentence each."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons
        numbered = (f"({number}) {reason}" for number, reason in enumerate(reasons, 1))
        listed = reasons[0] if len(reasons) == 1 else f"{len(reasons)} things stop this model: {'; '.join(numbered)}"
        hint = f"; supported on the traced path: {SUPPORTED}" if "has no integer form here" in listed else ""
        super().__init__(f"{listed}{hint}")


class Blockers:
    """What was found so far, by kind: sentences that differ in name, line and numbers alone are one."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[str, str]]] = {}

    @contextmanager
    def noting(self, node: fx.Node, described: str) -> Iterator[None]:
        """Note a ModelError about a node, as which it is ``described``, and go on."""
        try:
            yield
        except ModelError as error:
            line = written_at(node)
            kind = str(error).replace(line or "\0", "").replace(described, described.partition(" (")[2])
            kind = re.sub(r"\d+", "", kind)
            self._found.setdefault(kind, []).append((str(error), line.strip(" ()")))

    def add(self, sentence: str) -> None:
        """Something that is no node's."""
        self._found.setdefault(re.sub(r"'[^']*'|\d+", "", sentence), []).append((sentence, ""))

    def raise_found(self) -> None:
        """Raises Blocked where anything was."""
        if self._found:
            raise Blocked(tuple(_told(alike) for alike in self._found.values()))


def _told(alike: list[tuple[str, str]]) -> str:
    """The first sentence, and where the others are."""
    sentence, first = alike[0]
    if len(alike) == 1:
        return sentence
    lines = [line for line in dict.fromkeys(line for _, line in alike) if line and line != first]
    shown = f" ({', '.join(lines[:SHOWN])}{' and elsewhere' if len(lines) > SHOWN else ''})" if lines else ""
    return f"{sentence}; so it is with {len(alike) - 1} more{shown}"
