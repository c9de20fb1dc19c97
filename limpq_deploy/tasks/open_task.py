"""A task from its name."""

from collections.abc import Callable, Sequence

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.factories import call_factory, load_factory
from limpq_deploy.tasks.agreement import by_float
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.classification import CLASSIFICATION
from limpq_deploy.tasks.detection import open_detection
from limpq_deploy.tasks.embedding import Embedding
from limpq_deploy.tasks.names import factory_of
from limpq_deploy.tasks.segmentation import Segmentation

OWN: dict[str, Callable[[Sequence[tuple[int, ...]]], Task]] = {
    "classification": lambda shapes: CLASSIFICATION,
    "none": by_float,
    "segmentation": lambda shapes: Segmentation(),
    "embedding": lambda shapes: Embedding(),
}
"""Tasks of ours, for outputs of these shapes (N first)."""


def open_task(name: str, shapes: Sequence[tuple[int, ...]]) -> Task:
    """The task for a network whose outputs have these shapes. Raises SettingError where the user's own is none."""
    if name in OWN:
        return OWN[name](shapes)
    factory = factory_of(name)
    assert factory is not None
    if name != factory:
        return open_detection(factory)
    made_by = load_factory(factory, SettingError)
    if missing := sorted(getattr(made_by, "__abstractmethods__", ())):
        raise SettingError(
            f"the task {factory!r} has no {' and no '.join(missing)}; expected what every task has: write the "
            f"{'method' if len(missing) == 1 else 'methods'} as limpq_deploy.tasks.base.Task describes "
            f"{'it' if len(missing) == 1 else 'them'}"
        )
    task = call_factory(factory, made_by, SettingError)
    if not isinstance(task, Task):
        raise SettingError(
            f"{factory!r} returned a {type(task).__name__}; expected a limpq_deploy.tasks.base.Task, or a name of ours"
        )
    return task
