"""A build that another machine handed over in a bundle, as far as a CPU could bring it. No torch here.

Beside what every bundle holds, such a one has a folder ``build/``: settings, records and baselines of the build, the
images that its parity is shown on, and a `Handover`, which says what they belong to.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets import DataSet, Preprocess
from limpq_deploy.calibration.datasets.base import digest_of_arrays, split_of_arrays
from limpq_deploy.calibration.errors import RecordError, RuntimeUnavailable
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import TargetSpec, target_named
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import Runtime
from limpq_deploy.pipeline.config import Config, load_config
from limpq_deploy.pipeline.deployed import Start
from limpq_deploy.workspace.file_names import CONFIG, HANDOVER, IMAGES, PLACEMENT, PRICES


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What a bundle's ``build/`` belongs to. ``data``: of the data set, ``digest`` its digest where it was trained on;
    ``built``: facts of the report; ``source``, ``start_notes``, ``model_notes``: of the model's weights and of what was
    changed of it; ``preprocess``: what the images were made by."""

    data: str
    digest: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    built: dict[str, str]
    source: str
    trained: bool
    start_notes: tuple[str, ...] = ()
    model_notes: tuple[str, ...] = ()
    format: Literal["limpq.handover/1"] = field(default="limpq.handover/1")


class HandedOver:
    """What the stages behind the export know of it; ``folder`` holds the files by the names of a build's."""

    builds_engine = True
    hands_over = False
    handed_over = True

    def __init__(self, folder: Path) -> None:
        """Raises RecordError for damaged records."""
        self._folder = folder
        self.asked = load_config(folder / CONFIG)
        prices = folder / PRICES
        self.config: Config = replace(self.asked, out=folder, cost_table=prices if prices.is_file() else None)
        self.handover = load_record(Handover, folder / HANDOVER)
        self.placement = load_record(Placement, folder / PLACEMENT)

    @property
    def target(self) -> TargetSpec:
        return target_named(self.placement.target)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.handover.classes

    @property
    def preprocess(self) -> Preprocess:
        return self.handover.preprocess

    @property
    def start(self) -> Start:
        handed = self.handover
        return Start(trained=handed.trained, source=handed.source, notes=handed.start_notes)

    @property
    def model_notes(self) -> tuple[str, ...]:
        return self.handover.model_notes

    @cached_property
    def dataset(self) -> DataSet:
        """The images that were handed over, as a test split. They fit the model's input already; nobody asks for their
        labels, as accuracy was measured where all images are."""
        images = load_images(self._folder / IMAGES, self.preprocess)
        fitted = split_of_arrays(
            images.transpose(0, 2, 3, 1), np.zeros(len(images), np.int64), replace(self.preprocess, resize=None)
        )
        return DataSet(
            name=self.handover.data,
            classes=self.handover.classes,
            splits={"test": fitted},
            fingerprint=digest_of_arrays(images),
            one_label=bool(self.handover.classes),
        )

    def runtime(self) -> Runtime:
        """The target's own. Raises RuntimeUnavailable or MissingExtra where it cannot be used here."""
        assert self.target.runs_on is not None
        runtime = runtime_named(self.target.runs_on.name, self.config.engine_options)
        why = runtime.unavailable()
        if why is not None:
            raise RuntimeUnavailable(
                f"{why}; the bundle itself is whole: finish it on a machine with the GPU that is to serve it"
            )
        return runtime

    def data_digest(self) -> str:
        return self.dataset.digest()


def load_images(path: Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Pixels [images, channels, height, width]. Raises RecordError for anything else."""
    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} holds no images ({error}); hand the build over again") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != preprocess.shape or not len(images):
        raise RecordError(
            f"{path} holds {images.dtype} {list(images.shape)}; expected pixels of {list(preprocess.shape)}, at least "
            "one image: hand the build over again"
        )
    return images
