"""The jointly trained network of a build, and previews of policies on it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import in_float
from limpq_deploy.importance.preview import BATCHNORM_IMAGES, Preview, preview
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.pipeline.config import trusted_config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.policy.front import Front, PointPreview, UniformPoint
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import check_covers, check_ties
from limpq_deploy.policy.widths import with_widths
from limpq_deploy.progress import Report, silent
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model
from limpq_deploy.train.checkpoints import CheckpointInfo, load_module
from limpq_deploy.workspace.file_names import CONFIG, FLOAT_WEIGHTS, INDICATORS, JOINT
from limpq_deploy.workspace.finished import BuildFiles


class Previewer:
    """Previews of policies; call it with the bits of every searched layer.

    Raises RecordError where the folder's networks are missing or of another configuration.
    """

    def __init__(self, subject: Subject, folder: Path, *, images: int | None = None, interval: bool = False) -> None:
        """``images``: at most so many give the figure, and so many BatchNorm's statistics. ``interval``: of the figure
        too."""
        self._indicators = load_record(Indicators, folder / INDICATORS)
        self.trained = not subject.config.ptq
        """Whether the network was trained at all bit-widths; with ranges alone it was not."""
        traced = subject.traced(folder / FLOAT_WEIGHTS)
        self._joint = load_joint(subject, traced, folder)
        self._judge = subject.judge.beside(traced.graph_module.eval())
        self._train, self._held = (subject.joint_data.split(name) for name in ("train", "val"))
        self._interval = interval
        self._batchnorm_images = BATCHNORM_IMAGES if images is None else min(images, BATCHNORM_IMAGES)
        if images is not None and images < len(self._held):
            self._held = self._held.subset(np.linspace(0, len(self._held) - 1, images).astype(np.int64))
        self._seed = subject.config.seed
        self._seen: dict[tuple[tuple[str, BitPair], ...], Preview] = {}

    def __call__(self, policy: Mapping[str, BitPair], *, origin: str = "the policy") -> Preview:
        """Raises ModelError where the policy is not of these layers, or at widths that were not trained.

        Layers that it keeps in float are float here too; 8-bit codes between them and others are left away where 8
        bits were not trained. Of equal policies there is one preview.
        """
        known = with_widths(self._indicators, {bits for pair in policy.values() for bits in pair if in_float(bits)})
        check_covers(known, policy, origin)
        check_ties(known, policy, origin)
        key = tuple(sorted(policy.items()))
        if key not in self._seen:
            self._seen[key] = preview(
                self._joint,
                policy,
                train=self._train,
                held=self._held,
                batchnorm_images=self._batchnorm_images,
                seed=self._seed,
                judge=self._judge,
                interval=self._interval,
                trained=self.trained,
            )
        return self._seen[key]


def open_previewer(
    folder: Path, indicators: Indicators | None = None, *, trusted: bool = False, interval: bool = False
) -> Previewer:
    """Previews on a finished (or interrupted) build, from its own configuration. ``trusted``: modules that
    it names may be imported; see `trusted_config`. ``interval``: of every figure too.

    Raises RecordError for a folder without indicators and joint network, or where ``indicators`` are not the build's.
    """
    for name in (CONFIG, JOINT, INDICATORS):
        if not (folder / name).is_file():
            raise RecordError(
                f"{folder} has no {name}; expected the --out of a build that came as far as its indicators "
                "(`limpq-deploy indicators` makes one)"
            )
    files = BuildFiles(folder)
    for name in (CONFIG, FLOAT_WEIGHTS, JOINT, INDICATORS):
        files.path(name)
    subject = Subject(trusted_config(folder, trusted=trusted))
    if indicators is not None:
        own = load_record(Indicators, folder / INDICATORS)
        if (own.bits, own.layers) != (indicators.bits, indicators.layers):
            raise RecordError(
                f"the indicators are not those of {folder}; give {folder / INDICATORS}, or the build that made them"
            )
    return Previewer(subject, folder, interval=interval)


def with_previews(front: Front, look: Previewer, report: Report = silent) -> Front:
    """A front whose points carry their previews."""
    points = []
    for number, point in enumerate(front.points):
        report(number, len(front.points), f"{point.gbitops_limit:g} G BitOps")
        found = look(point.policy.pairs())
        points.append(replace(point, preview=_seen(found)))
        front = replace(front, figure=found.measure.name, unit=found.measure.unit)
    return replace(front, points=tuple(points))


def uniform_previews(front: Front, uniform: Sequence[UniformPoint], look: Previewer) -> tuple[UniformPoint, ...]:
    """Uniform policies beside a front, of which those of equal bits carry their previews."""
    layers = front.points[0].policy.bits if front.points else {}
    return tuple(
        replace(one, preview=_seen(look(dict.fromkeys(layers, (one.weight_bits, one.act_bits)))))
        if layers and one.weight_bits == one.act_bits
        else one
        for one in uniform
    )


def _seen(found: Preview) -> PointPreview:
    return PointPreview(top1=found.top1, loss=found.loss, low=found.low, high=found.high)


def load_joint(subject: Subject, traced: TracedModel, folder: Path) -> QuantizedModel:
    """The jointly trained network from its checkpoint; its weights are the float model's own where none were
    trained."""
    joint = joint_model(traced, subject.placement, subject.config.candidates, share=subject.config.ptq)
    load_module(folder / JOINT, joint, joint_info(subject))
    return joint


def joint_info(subject: Subject) -> CheckpointInfo:
    """What the joint network's checkpoint says of itself."""
    config = subject.config
    return CheckpointInfo(kind="joint", model=config.model, target=subject.target.name, bits=config.candidates)
