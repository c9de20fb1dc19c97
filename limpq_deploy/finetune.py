"""Fine-tuning at the chosen bit-widths: LSQ scales and weights learn together (Esser et al., LSQ, ICLR 2020)."""

from collections.abc import Mapping

import torch

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.params import QuantParams, TensorQuant
from limpq_deploy.export.placement import BitPair
from limpq_deploy.finetuned import Candidate, FineTuned, Top1
from limpq_deploy.policy import LayerBits
from limpq_deploy.progress import Report, silent
from limpq_deploy.quantized import QuantizedModel
from limpq_deploy.settings import FinetuneSettings
from limpq_deploy.training import settle_batchnorm, top1, train


def finetune(
    model: QuantizedModel,
    policy: Mapping[str, BitPair],
    dataset: DataSet,
    *,
    settings: FinetuneSettings,
    seed: int,
    float_top1: Top1,
    report: Report = silent,
) -> FineTuned:
    """Train a `model_of_policy` in place and leave it at its best checkpoint, in evaluation mode.

    Candidates are the model as it came and ``settings.candidates`` checkpoints. Each gets BatchNorm statistics
    re-estimated on training images, then is measured on the validation split; the best one wins, the later one among
    equals. The test split is looked at once, at the end. ``float_top1``: of the float model, for the record.
    """
    model.set_bits(policy)
    split, val = dataset.split("train"), dataset.split("val")
    tried: list[Candidate] = []
    best: tuple[Candidate, dict[str, torch.Tensor]] | None = None

    def consider(step: int) -> None:
        nonlocal best
        settle_batchnorm(model, split, images=settings.batchnorm_images, seed=seed)
        candidate = Candidate(step=step, val=top1(model, val))
        tried.append(candidate)
        if best is None or candidate.val >= best[0].val:
            best = candidate, {name: tensor.clone() for name, tensor in model.state_dict().items()}

    due = candidate_steps(settings)

    def after_step(step: int) -> None:
        if step in due:
            consider(step)

    consider(0)
    history = train(model, split, settings, seed=seed, augment=dataset.augment, after_step=after_step, report=report)
    assert best is not None
    chosen, state = best
    model.load_state_dict(state)
    weights, activations = tensor_quants(model, policy)
    return FineTuned(
        model=model.placement.model,
        target=model.placement.target,
        bits={name: LayerBits(weight=weight, act=act) for name, (weight, act) in policy.items()},
        seed=seed,
        settings=settings,
        epochs=round(history.images / len(split), 3),
        float_top1=float_top1,
        top1=Top1(val=chosen.val, test=top1(model, dataset.split("test"))),
        chosen_step=chosen.step,
        candidates=tuple(tried),
        weights=weights,
        activations=activations,
        seconds=round(history.seconds, 3),
    )


def candidate_steps(settings: FinetuneSettings) -> frozenset[int]:
    """Steps after which a checkpoint is tried: evenly spaced, the last step among them."""
    count = settings.candidates
    return frozenset(settings.steps * number // count for number in range(1, count + 1))


def tensor_quants(
    model: QuantizedModel, policy: Mapping[str, BitPair]
) -> tuple[tuple[TensorQuant, ...], tuple[TensorQuant, ...]]:
    """Grid and scale of every weight (by layer) and of every activation quantizer that does something."""
    weights = [
        TensorQuant(tensor=name, params=QuantParams(grid=grid, scale=(model.quant_layer(name).active_scale(),)))
        for name, grid in model.placement.weight_grids(policy).items()
    ]
    activations = [
        TensorQuant(tensor=name, params=QuantParams(grid=grid, scale=(model.act_quantizer(name).active_scale(),)))
        for name, grid in model.placement.act_grids(policy).items()
    ]
    return tuple(weights), tuple(activations)
