"""Fine-tuning at the chosen bit-widths: LSQ scales and weights learn together (Esser et al., LSQ, ICLR 2020)."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.params import QuantParams, TensorQuant
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.policy import LayerBits
from limpq_deploy.progress import Report, silent
from limpq_deploy.quant.folded_forward import as_recorded
from limpq_deploy.quant.modules import QuantLayer
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.tasks.base import Task
from limpq_deploy.train.accuracy import figure_together, settle_batchnorm_together
from limpq_deploy.train.average import WeightAverage
from limpq_deploy.train.device import on_device, usual_layout
from limpq_deploy.train.execution import ALONE, Execution
from limpq_deploy.train.finetuned import Candidate, FineTuned, Top1
from limpq_deploy.train.judge import CLASSES, Judge
from limpq_deploy.train.loop import train
from limpq_deploy.train.losses import Loss, Pass, Teacher, distilled, taught_by_labels
from limpq_deploy.train.settings import FinetuneSettings


def finetune(
    model: QuantizedModel,
    policy: Mapping[str, BitPair],
    dataset: DataSet,
    *,
    settings: FinetuneSettings,
    seed: int,
    float_top1: Top1,
    teacher: nn.Module | None = None,
    foreign_weights: bool = False,
    report: Report = silent,
    execution: Execution = ALONE,
    judge: Judge = CLASSES,
) -> FineTuned:
    """Train a `model_of_policy` in place and leave it at its best checkpoint, in evaluation mode.

    Candidates are the model as it came and ``settings.candidates`` checkpoints (of the moving average, with
    ``settings.ema``). Each gets BatchNorm statistics re-estimated on training images, then is measured on the
    validation split; the best one wins, the later one among equals. The test split is looked at once, at the end.
    Accuracy is that of the model with BatchNorm folded and biases rounded as they are exported (`as_recorded`).
    ``float_top1``: of the float model, for the record. ``teacher``: the float model, which ``settings.distill`` needs.
    ``foreign_weights``: the float weights were not trained here, so that nobody knows which images they have seen.
    ``judge``: whose figure decides; images without labels are held against ``teacher``. Raises SettingError for
    distillation without a teacher, and what `train` raises.
    """
    if settings.distill > 0 and teacher is None:
        raise SettingError(
            f"distill is {settings.distill:g} and there is no float model to learn from; give its weights"
        )
    model.set_bits(policy)
    split = dataset.split("train")
    if teacher is not None:
        judge = judge.beside(teacher)
    with on_device(model, teacher):
        average = WeightAverage(model, settings.ema) if settings.ema > 0 else None
        candidates = _Candidates(model, policy, dataset, settings, seed, average, judge)
        candidates.consider(0)
        due = candidate_steps(settings)

        def after_step(step: int) -> None:
            if step in due:
                candidates.consider(step)

        history = train(
            model,
            split,
            settings,
            seed=seed,
            augment=dataset.augment,
            passes=(Pass(name="train", loss=_loss(settings, teacher, judge.task)),),
            after_step=after_step,
            report=report,
            execution=execution,
            average=average,
            remember={"candidates": candidates},
            task=judge.task,
        )
        chosen = candidates.take_best()
        with as_recorded(model, policy):
            test = figure_together(model, dataset.split("test"), judge)
    return FineTuned(
        **of_model(model, policy),
        seed=seed,
        settings=settings,
        epochs=round(history.images / len(split), 3),
        float_top1=float_top1,
        top1=Top1(
            val=chosen.val, test=test, val_images=len(dataset.split("val")), test_images=len(dataset.split("test"))
        ),
        chosen_step=chosen.step,
        candidates=tuple(candidates.tried),
        val_may_be_seen=foreign_weights and dataset.val_held_out,
        seconds=round(history.seconds, 3),
        measure=judge.of(dataset.split("test")).named,
    )


class _Candidates:
    """Checkpoints tried so far, and the tensors of the best of them."""

    def __init__(
        self,
        model: QuantizedModel,
        policy: Mapping[str, BitPair],
        dataset: DataSet,
        settings: FinetuneSettings,
        seed: int,
        average: WeightAverage | None,
        judge: Judge,
    ) -> None:
        self._judge = judge
        self._policy = policy
        self._model, self._dataset, self._settings, self._seed = model, dataset, settings, seed
        self._average = average
        self.tried: list[Candidate] = []
        self._best: Candidate | None = None
        self._tensors: dict[str, torch.Tensor] = {}

    def consider(self, step: int) -> None:
        """Measure the model, or its average, after ``step`` steps, and keep it if none was better."""
        split, val = self._dataset.split("train"), self._dataset.split("val")
        with usual_layout(self._model), _averaged(self._model, self._average):
            settle_batchnorm_together(
                self._model,
                split,
                images=self._settings.batchnorm_images,
                seed=self._seed,
                augment=self._dataset.augment if self._settings.augment else None,
            )
            candidate = Candidate(step=step, val=self._figure(val))
            self.tried.append(candidate)
            gain = self._judge.of(val).measure.gain
            if self._best is None or gain(candidate.val, self._best.val) >= 0:
                self._best = candidate
                self._tensors = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}

    def _figure(self, split: Split) -> float:
        """The figure as exported. What training has ruined beyond export is worth the worst one, unless it came so."""
        try:
            with as_recorded(self._model, self._policy):
                return figure_together(self._model, split, self._judge)
        except ModelError:
            if not self.tried:
                raise
            return 0.0 if self._judge.of(split).measure.higher else sys.float_info.max

    def take_best(self) -> Candidate:
        """Leave the model at the best candidate."""
        assert self._best is not None
        self._model.load_state_dict(self._tensors)
        return self._best

    def state(self) -> tuple[dict[str, torch.Tensor], Any]:
        assert self._best is not None
        tried = [[candidate.step, candidate.val] for candidate in self.tried]
        return self._tensors, {"tried": tried, "best": self.tried.index(self._best)}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        self.tried = [Candidate(step=step, val=val) for step, val in facts["tried"]]
        self._best = self.tried[facts["best"]]
        self._tensors = dict(tensors)


@contextlib.contextmanager
def _averaged(model: QuantizedModel, average: WeightAverage | None) -> Iterator[None]:
    """Within it the parameters are the averages; BatchNorm statistics made under them are not left behind."""
    if average is None:
        yield
        return
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with average.in_place():
        yield
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])


def _loss(settings: FinetuneSettings, teacher: nn.Module | None, task: Task) -> Loss | None:
    if settings.distill == 0:
        return None
    assert teacher is not None
    own = taught_by_labels(task, settings.label_smoothing)
    return distilled(Teacher(teacher.eval()), own, weight=settings.distill, temperature=settings.temperature, task=task)


def candidate_steps(settings: FinetuneSettings) -> frozenset[int]:
    """Steps after which a checkpoint is tried: evenly spaced, the last step among them."""
    count = settings.candidates
    return frozenset(settings.steps * number // count for number in range(1, count + 1))


def of_model(model: QuantizedModel, policy: Mapping[str, BitPair]) -> dict[str, Any]:
    """What a `FineTuned` says of the model itself, by field: bits, kind of scales, every scale with its grid."""
    weights, activations = tensor_quants(model, policy)
    return {
        "model": model.placement.model,
        "target": model.placement.target,
        "bits": {name: LayerBits.of(pair) for name, pair in policy.items()},
        "scales": "pow2" if model.pow2 else "free",
        "weights": weights,
        "activations": activations,
    }


def tensor_quants(
    model: QuantizedModel, policy: Mapping[str, BitPair]
) -> tuple[tuple[TensorQuant, ...], tuple[TensorQuant, ...]]:
    """Grid and scale of every weight (by layer) and of every activation quantizer that does something. Weight scales
    are those before BatchNorm is folded in, one per layer; powers of two are those after it, one per channel."""
    weights = [
        TensorQuant(tensor=name, params=_weight_params(model.quant_layer(name), grid))
        for name, grid in model.placement.weight_grids(policy).items()
    ]
    activations = [
        TensorQuant(tensor=name, params=QuantParams(grid=grid, scale=(model.act_quantizer(name).active_scale(),)))
        for name, grid in model.placement.act_grids(policy).items()
    ]
    return tuple(weights), tuple(activations)


def _weight_params(layer: QuantLayer, grid: QuantGrid) -> QuantParams:
    powers = layer.folded_scales()
    if powers is None:
        return QuantParams(grid=grid, scale=(layer.active_scale(),))
    return QuantParams(grid=grid, scale=tuple(powers.tolist()), axis=0)
