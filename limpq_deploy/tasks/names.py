"""Tasks by name, as settings and options spell them. No torch here."""

from limpq_deploy.calibration.factories import is_factory_name

DEFAULT_TASK = "classification"

TASKS = ("classification", "none", "segmentation", "embedding")
"""Tasks that need nothing but their name."""

DETECTION = "detection"

FORMS = f"{', '.join(TASKS)}, {DETECTION}:module:decode or module:factory"


def require_task(name: str) -> None:
    """Raise ValueError for a name that no task can have."""
    kind, _, rest = name.partition(":")
    if kind == DETECTION and is_factory_name(rest):
        return
    if name not in TASKS and (kind == DETECTION or not is_factory_name(name)):
        hint = " (decode is your function from the network's outputs to boxes)" if kind == DETECTION else ""
        raise ValueError(f"task is {name!r}; expected {FORMS}{hint}")


def factory_of(name: str) -> str | None:
    """The user's own part of a task, as ``module:factory``; None for a task of ours alone."""
    if name in TASKS:
        return None
    return name.removeprefix(f"{DETECTION}:")
