"""About how long each stage of a build takes here, from a short trial of its network."""

from collections.abc import Mapping

import torch

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.importance.all_measures import IMAGES as MEASURED_IMAGES
from limpq_deploy.importance.variants import searched_tensors
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.candidates import PARITY_IMAGES as FILE_IMAGES
from limpq_deploy.pipeline.stages.facts import (
    calibration_images,
    finetune_training,
    float_training,
    joint_training,
    profile_seconds,
)
from limpq_deploy.pipeline.stages.measure import PARITY_IMAGES
from limpq_deploy.pipeline.stages.rounds import STUDIED_SHARE, STUDY_BITS, STUDY_BUDGETS
from limpq_deploy.pipeline.stages.what_if import effort
from limpq_deploy.train.corrections import HELD_IMAGES
from limpq_deploy.train.device import settle_threads
from limpq_deploy.train.ptq import CORRECTIONS, IN_WORDS
from limpq_deploy.train.trial import MOST_IMAGES, ImageSeconds, try_out
from limpq_deploy.train.untuned import BATCHNORM_IMAGES, OF_BATCHNORM

PREVIEWS, PREVIEW_IMAGES = 12, 2000
"""Policies of a tournament, and images that give each its BatchNorm statistics, at most."""

FILES = 4
"""Float, int8, uniform and mixed; FP8, where formats admit it, is one more: `_files`."""

NODE_SECONDS, EXPORT_SECONDS = 0.02, 1.0
"""Of torch's exporter: for each node of a traced graph, and once."""

TIMING = 1.4
"""What a series of timed calls takes, relative to what is recorded of it: warm-up, settling, statistics."""

RUNTIME_FASTER = 0.5
"""What ONNX Runtime takes of torch's time for a forward pass, about."""

REFERENCE_SECONDS = 5e-10
"""Of one multiply-accumulate of the integer reference, in NumPy."""


def estimate_stages(subject: Subject) -> Mapping[str, float]:
    """Seconds by a stage's name, for stages whose time is known beforehand. Trains nothing and writes nothing; takes a
    few seconds itself."""
    macs = sum(layer.macs for layer in subject.placement.layers)
    settle_threads(macs)
    _, traced = subject.untrained()
    images = min(MOST_IMAGES, max(2, len(subject.dataset.split("train"))))
    shape = (images, *subject.preprocess.shape)
    one = try_out(
        traced, subject.placement, subject.config.candidates, torch.zeros(shape).normal_(generator=_generator())
    )
    export = EXPORT_SECONDS + NODE_SECONDS * len(traced.graph_module.graph.nodes)
    found = {
        "given": export + 30 * one.float_forward,
        "float": _float(subject, one),
        "indicators": (_ranges if subject.config.ptq else _joint)(subject, one) + _importance(subject, one),
        "search": _previews(subject, one),
        **dict.fromkeys(("finetune", "uniform"), _of_policy(subject, one)),
        **dict.fromkeys(("int8", "fp8"), _of_others(subject, one)),
        "export": export + 30 * one.float_forward,
        "engine": 0.1 if subject.target.device == "cpu" else export,
        "parity": PARITY_IMAGES * (macs * REFERENCE_SECONDS + 3 * one.quantized_forward),
        "accuracy": _files(subject) * _images(subject, "test") * one.float_forward * RUNTIME_FASTER,
        "candidates": _files(subject) * FILE_IMAGES * macs * REFERENCE_SECONDS + 0.1,
        **_timed(subject, traced),
        "verdict": 0.5,
        "what-if": _front(subject, one, macs),
        "report": 0.5,
        "bundle": 0.2,
    }
    return {name: round(seconds, 1) for name, seconds in found.items()}


def _float(subject: Subject, one: ImageSeconds) -> float:
    evaluated = (_images(subject, "val") + _images(subject, "test")) * one.float_forward
    if subject.start.trained:
        return evaluated
    settings = float_training(subject)
    settled = min(settings.batchnorm_images, _images(subject, "train"))
    return evaluated + settings.steps * settings.batch_size * one.float_step + settled * one.float_forward


def _joint(subject: Subject, one: ImageSeconds) -> float:
    settings = joint_training(subject)
    passes = len(subject.config.candidates) + 1
    each = passes * one.quantized_step + (one.float_forward if settings.distill else 0.0)
    return settings.steps * settings.batch_size * each


def _ranges(subject: Subject, one: ImageSeconds) -> float:
    return calibration_images(subject) * one.float_forward


def _importance(subject: Subject, one: ImageSeconds) -> float:
    """Every tensor at every width below the widest: half a forward pass each."""
    if subject.config.policy is not None:
        return 0.0
    images = min(MEASURED_IMAGES, len(subject.joint_data.split("val")))
    variants = len(searched_tensors(subject.placement)) * (len(subject.config.candidates) - 1)
    return images * (variants * one.quantized_forward / 2 + one.quantized_step)


def _previews(subject: Subject, one: ImageSeconds) -> float:
    if subject.config.policy is not None or subject.config.importance is not None:
        return 0.1
    data = subject.joint_data
    looks = 2 if subject.config.ptq else 1
    looked_at = min(PREVIEW_IMAGES, len(data.split("train"))) + looks * len(data.split("val"))
    return 0.1 + PREVIEWS * looked_at * one.quantized_forward


def _front(subject: Subject, one: ImageSeconds, macs: int) -> float:
    if subject.config.policy is not None:
        return 0.0
    points, images = effort(macs)
    data = subject.joint_data
    looked_at = sum(min(images, len(data.split(name))) for name in ("train", "val"))
    return 0.5 + (points + len(subject.config.candidates)) * looked_at * one.quantized_forward


def _of_policy(subject: Subject, one: ImageSeconds) -> float:
    if subject.config.ptq:
        return _calibrated(subject, one)
    test = _images(subject, "test") * one.quantized_forward
    if not subject.config.finetune:
        held = min(HELD_IMAGES, _images(subject, "val"))
        settled = min(BATCHNORM_IMAGES, _images(subject, "train"))
        return test + (len(OF_BATCHNORM) * held + (len(OF_BATCHNORM) - 1) * settled) * one.quantized_forward
    settings = finetune_training(subject)
    tried = min(settings.batchnorm_images, _images(subject, "train")) + _images(subject, "val")
    each = one.quantized_step + (one.float_forward if settings.distill else 0.0)
    trained = settings.steps * settings.batch_size * each
    return test + trained + (settings.candidates + 1) * tried * one.quantized_forward


def _of_others(subject: Subject, one: ImageSeconds) -> float:
    """Of widths that joint training does not know."""
    return _of_policy(subject, one) if subject.config.finetune else _calibrated(subject, one)


def _calibrated(subject: Subject, one: ImageSeconds) -> float:
    held, images = min(HELD_IMAGES, _images(subject, "val")), calibration_images(subject)
    tried = len(CORRECTIONS if subject.config.ranges else IN_WORDS)
    looked_at = tried * held + (tried + 1) * images + _images(subject, "test")
    return looked_at * one.quantized_forward


def _timed(subject: Subject, traced: TracedModel) -> dict[str, float]:
    runs_on, seconds = subject.target.runs_on, subject.config.latency_seconds
    if runs_on is None:
        return {}
    graphs = STUDY_BUDGETS + len(STUDY_BITS)
    pairs = len(subject.target.native_pairs) + 1
    return {
        "profile": TIMING * profile_seconds(subject) * (pairs + 8),
        "latency": TIMING * seconds * _files(subject) * len(runs_on.threads),
        "study": TIMING * seconds * STUDIED_SHARE * graphs + NODE_SECONDS * len(traced.graph_module.graph.nodes),
        "audit": 10.0,
    }


def _files(subject: Subject) -> int:
    return FILES + (FP8 in subject.config.candidates)


def _images(subject: Subject, split: str) -> int:
    return len(subject.dataset.split(split))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
