"""What repairs a model that is not trained at its bits: several are tried, and the one that measures best stays."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.progress import Report
from limpq_deploy.quant.folded_forward import as_recorded
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.tasks.score import Measure, Scored
from limpq_deploy.train.accuracy import evaluation_and_distance, figure
from limpq_deploy.train.evaluate import Evaluation
from limpq_deploy.train.finetune import of_model
from limpq_deploy.train.finetuned import NOT_TRAINED, Calibrated, Correction, FineTuned, How, Top1
from limpq_deploy.train.judge import Judge
from limpq_deploy.train.judged import compare, value_of
from limpq_deploy.train.kept_memory import freed_memory_returned

HELD_IMAGES = 2000
"""At most so many validation images choose the correction."""

CHANCE = 0.05
"""How improbable a difference has to be by chance alone before it decides."""


@dataclass(frozen=True, slots=True)
class Trials:
    """What was tried, on how many held-out images; the place of what stays; and why, in a sentence."""

    tried: tuple[Correction, ...]
    held_images: int
    best: int
    why: str

    @property
    def chosen(self) -> Correction:
        return self.tried[self.best]


def keep_best(
    model: QuantizedModel,
    policy: Mapping[str, BitPair],
    held: Split,
    judge: Judge,
    corrections: Mapping[str, str],
    correct: Callable[[str], None],
    report: Report,
) -> Trials:
    """Try corrections (name: in words), each on the model as it came, and leave it at the best, in evaluation mode.

    ``correct`` applies one in place; weights of layers are not its to change. ``judge``: beside the float model, whose
    outputs the model's are compared with, exported as they would be; see `best_of`.
    """
    plain, tensors = state_without_weights(model), list[dict[str, torch.Tensor]]()
    tried, evaluations = list[Correction](), list[Evaluation | Scored]()
    for number, (name, words) in enumerate(corrections.items()):
        report(number, len(corrections), words)
        model.load_state_dict(plain, strict=False)
        correct(name)
        with _recorded(model, policy):
            found, distance = evaluation_and_distance(model, held, judge)
        evaluations.append(found)
        tried.append(Correction(name=name, top1=value_of(found), loss=distance))
        tensors.append(state_without_weights(model))
    measure = judge.of(held).measure
    best = best_of(tried, evaluations, measure)
    model.load_state_dict(tensors[best], strict=False)
    model.eval()
    return Trials(tuple(tried), len(held), best, why_best(tried, best, len(held), measure, corrections))


def untrained(
    model: QuantizedModel,
    policy: dict[str, BitPair],
    dataset: DataSet,
    judge: Judge,
    trials: Trials,
    *,
    ranges: str,
    images: int,
    how: How = NOT_TRAINED,
    uncorrected: tuple[str, ...] = (),
    seed: int,
    float_top1: Top1,
    foreign_weights: bool,
    seconds: float,
) -> FineTuned:
    """The record of a model that was not trained at its bits, after a look at the test split. ``images``: those that
    gave its ``ranges`` or statistics; the others as in `Calibrated`."""
    test, chosen = dataset.split("test"), trials.chosen
    with _recorded(model, policy):
        figure_on_test = figure(model, test, judge)
    return FineTuned(
        **of_model(model, policy),
        seed=seed,
        settings=None,
        epochs=0.0,
        float_top1=float_top1,
        top1=Top1(val=chosen.top1, test=figure_on_test, val_images=trials.held_images, test_images=len(test)),
        chosen_step=0,
        candidates=(),
        val_may_be_seen=foreign_weights and dataset.val_held_out,
        seconds=round(seconds, 3),
        calibrated=Calibrated(
            ranges=ranges,
            images=images,
            held_images=trials.held_images,
            corrections=trials.tried,
            chosen=chosen.name,
            why=trials.why,
            how=how,
            uncorrected=uncorrected,
        ),
        measure=judge.of(test).named,
    )


@contextlib.contextmanager
def _recorded(model: QuantizedModel, policy: Mapping[str, BitPair]) -> Iterator[None]:
    """`as_recorded`, whose weights lie apart from what passes over images leave behind."""
    with contextlib.ExitStack() as stack:
        with freed_memory_returned():
            stack.enter_context(as_recorded(model, policy))
        yield


def best_of(tried: list[Correction], evaluations: list[Evaluation | Scored], measure: Measure) -> int:
    """Of those that are not worse than the best figure beyond chance (a one-sided test on the same images), the one
    nearest to the float model: a few images more or less say nothing, and a correction repairs a network, it makes no
    other one of it. Figures that do not count images are taken as they are."""
    first = max(range(len(tried)), key=lambda index: measure.gain(tried[index].top1, 0.0))
    even = [at for at, one in enumerate(evaluations) if compare(one, evaluations[first]).p_first_worse >= CHANCE]
    return min(even, key=lambda index: tried[index].loss)


def why_best(tried: list[Correction], best: int, images: int, measure: Measure, words: Mapping[str, str]) -> str:
    """The figure of what stays, beside the others."""
    chosen = f"{words[tried[best].name]}: {measure.shown(tried[best].top1)} on {images:,} held-out images"
    others = (f"{measure.shown(one.top1)} with {words[one.name]}" for one in tried if one is not tried[best])
    said = ", ".join((chosen, *others))
    lower = any(measure.gain(one.top1, tried[best].top1) > 0 for one in tried)
    return f"{said}; within chance, and nearest to the float model's outputs" if lower else said


def some_of(split: Split, seed: int) -> Split:
    """At most `HELD_IMAGES` images, drawn once, in the data's order."""
    order = np.random.default_rng(seed).permutation(len(split))
    return split.subset(np.sort(order[:HELD_IMAGES]))


def state_without_weights(model: QuantizedModel) -> dict[str, torch.Tensor]:
    """Copies of what a correction may change: all but the weights of layers, which would be the model again."""
    kept = {f"graph.{layer.name}.weight" for layer in model.placement.layers}
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in kept}
