"""Models and data that were given as objects, in this process, under names that a configuration can hold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limpq_deploy.calibration.errors import LimpqError

PREFIX = "in_memory:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A factory of an object that the caller gave. ``digest``: of all that its results depend on. ``trained``: whether
    a model's weights are to be kept."""

    make: Callable[..., Any]
    digest: str
    trained: bool = True

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)


_KEPT: dict[str, Given] = {}


def keep_given(name: str, given: Given) -> str:
    """Keep an object for this process and return its name, ``in_memory:NAME``; the last one of a name counts."""
    full = PREFIX + "".join(letter if letter.isalnum() else "_" for letter in name)
    _KEPT[full] = given
    return full


def in_memory(name: str) -> bool:
    """Whether a name is of an object that was given in a process, this one or another."""
    return name.startswith(PREFIX)


def given_named(name: str, error: type[LimpqError]) -> Given:
    """What was kept under a name. Raises ``error`` where that was in another process."""
    if name not in _KEPT:
        raise error(
            f"{name!r} was given as a Python object to another process, and is not here; give it again, as in "
            "limpq_deploy.build(model, data, ...) or limpq_deploy.preview(policy, DIR, model=..., data=...)"
        )
    return _KEPT[name]
