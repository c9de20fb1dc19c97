"""What would stop a build later, found before any work is done."""

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.model.activation_memory import with_memory
from limpq_deploy.model.edges import with_edges
from limpq_deploy.optional_packages import require_modules
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.asked_policy import budgets_asked, policy_given, under_restrictions
from limpq_deploy.policy.budgets import COST_FILES
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer, weights_only
from limpq_deploy.policy.search import search_policy
from limpq_deploy.train.device import require_precision
from limpq_deploy.train.settings import finetune_settings, float_settings, joint_settings
from limpq_deploy.train.training_log import require_tensorboard
from limpq_deploy.workspace.finished import checked


def check_inputs(subject: Subject, *, engine: bool) -> None:
    """Find now what would stop the build later: packages, runtime (``engine``), data, classes, weights, layers,
    budgets.

    Raises the error that the stage would raise.
    """
    config = subject.config
    require_modules(("safetensors",), "training")
    for given in (config.weights, config.policy, *(getattr(config, name) for name in COST_FILES)):
        if given is not None:
            checked(given)
    if subject.target.exportable:
        require_modules(("onnxscript",), "exporting")
    if engine and subject.compiles_only:
        subject.compiler()
    elif engine and subject.builds_engine:
        subject.runtime()
    subject.require_data_of_task()
    _check_training(subject)
    _check_floats(subject)
    untrained = _untrained_indicators(subject.placement, config.candidates)
    if config.act_bits is not None and not subject.placement.weights_only:
        untrained = weights_only(untrained, config.act_bits)
    traced = subject.shapes
    indicators = under_restrictions(subject, with_edges(with_memory(untrained, traced, subject.placement), traced))
    if config.policy is not None:
        policy_given(subject, indicators)
    else:
        budgets = budgets_asked(subject, indicators)
        if budgets:  # none yet where latency alone decides, which is not profiled yet
            search_policy(indicators, budgets, solver=config.solver)


def _check_floats(subject: Subject) -> None:
    """Refuse a network of which too much runs in float."""
    limit, found = subject.config.max_float_share, subject.placement
    if limit is not None and found.float_share > limit:
        raise SettingError(
            f"{100 * found.float_share:.1f} % of the network's multiply-accumulates run in float on "
            f"{subject.target.name} ({found.floats_in_words}), and max_float_share allows {100 * limit:g} %; raise "
            "it, or replace those operators (limpq-deploy inspect names their lines)"
        )


def _check_training(subject: Subject) -> None:
    """Refuse settings that make no sense together, a precision that is missing here, and a batch that would
    silently be smaller than asked for."""
    training, images = subject.config.training, len(subject.dataset.split("train"))
    _check_labels(subject)
    for settings in (float_settings, joint_settings, finetune_settings):
        require_precision(settings(images, training).precision)
    if training.tensorboard:
        require_tensorboard()
    if training.batch_size is not None and training.batch_size > images:
        raise SettingError(
            f"training.batch_size is {training.batch_size}, and {subject.dataset.name!r} has {images} training images "
            "only; choose a smaller batch"
        )


def _check_labels(subject: Subject) -> None:
    """Refuse trainings that need labels where there are none."""
    labelled = subject.dataset.split("train").labelled and subject.task.labels_teach
    training = subject.config.training
    if labelled:
        return
    why = f"the task {subject.task.name}" if subject.dataset.split("train").labelled else "these images without labels"
    if not subject.start.trained:
        raise SettingError(
            f"a float model cannot be trained here by {why}; give --weights of a trained network, or --pretrained"
        )
    if training.inplace_distill or training.distill not in (None, 1.0):
        raise SettingError(
            f"training.distill below 1 and inplace_distill learn from labels, and {why} teaches nothing by them; "
            "leave both away"
        )


def _untrained_indicators(placement: Placement, bits: tuple[int, ...]) -> Indicators:
    """Indicators that say nothing yet, to check budgets before hours of training."""
    values = tuple(2.0**-width for width in bits)
    return Indicators(
        model=placement.model,
        bits=bits,
        layers=tuple(
            LayerIndicators(
                name=layer.name,
                macs=layer.macs,
                num_weights=layer.num_weights,
                weight=values,
                act=values,
                act_group=placement.act_group(layer),
                kind=layer.kind,
            )
            for layer in placement.searched
        ),
        pinned=tuple(
            PinnedLayer(
                name=layer.name,
                macs=layer.macs,
                num_weights=layer.num_weights,
                weight_bits=layer.pinned_bits or 0,
                act_bits=placement.quantizer(layer.input).bits or 0,
            )
            for layer in placement.pinned
        ),
    )
