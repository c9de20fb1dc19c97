"""What the stages behind the export know of a build: of one that began here, or of one that was handed over by a
machine without a GPU (`handed_over.HandedOver`). No torch here."""

from dataclasses import dataclass
from typing import Protocol

from limpq_deploy.calibration.datasets import DataSet, Preprocess
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import TargetSpec
from limpq_deploy.export.runtimes.base import Runtime
from limpq_deploy.pipeline.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a float model starts from. ``trained``: all weights are there, and none is trained here. ``source``: where
    they come from, in few words. ``notes``: sentences on what was done to them."""

    trained: bool
    source: str
    notes: tuple[str, ...] = ()


class Deployed(Protocol):
    """A build behind its export."""

    @property
    def config(self) -> Config: ...

    @property
    def asked(self) -> Config:
        """The settings as they were given where the build began; ``config`` has those that hold here."""
        ...

    @property
    def target(self) -> TargetSpec: ...

    @property
    def placement(self) -> Placement: ...

    @property
    def dataset(self) -> DataSet: ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the logits, or of maps and boxes; empty for outputs without classes."""
        ...

    @property
    def preprocess(self) -> Preprocess: ...

    @property
    def start(self) -> Start: ...

    @property
    def model_notes(self) -> tuple[str, ...]: ...

    @property
    def builds_engine(self) -> bool:
        """Whether an engine is built here."""
        ...

    @property
    def hands_over(self) -> bool:
        """Whether the build goes as far as a CPU can, and its bundle is finished where there is a GPU."""
        ...

    @property
    def handed_over(self) -> bool:
        """Whether it began on another machine, which handed it over."""
        ...

    def runtime(self) -> Runtime:
        """What executes the files here. Raises RuntimeUnavailable or MissingExtra where it cannot."""
        ...

    def data_digest(self) -> str:
        """What the images are."""
        ...
