"""The jointly trained network at the bits of a policy, as it is: nothing but BatchNorm's statistics is estimated."""

import time

from torch import nn

from limpq_deploy.calibration.batchnorm import batchnorms
from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.progress import Report, silent
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit
from limpq_deploy.train.accuracy import settle_batchnorm
from limpq_deploy.train.corrections import keep_best, some_of, untrained
from limpq_deploy.train.device import on_device
from limpq_deploy.train.finetuned import NOT_FINETUNED, FineTuned, Top1
from limpq_deploy.train.judge import CLASSES, Judge

BATCHNORM_IMAGES = 6000
"""Training images that give BatchNorm its statistics, at most; as many as fine-tuning takes."""

NONE = "none"
OF_BATCHNORM = {
    NONE: "statistics of joint training",
    "batchnorm": "BatchNorm estimated anew",
    "augmented": "BatchNorm estimated anew on augmented images",
}
"""Where BatchNorm's statistics may come from, in words. Those of joint training are of a layer's weight bits, whatever
the bits of its input."""


def take_joint(
    model: QuantizedModel,
    policy: dict[str, BitPair],
    dataset: DataSet,
    *,
    joint: QuantizedModel,
    seed: int,
    float_top1: Top1,
    foreign_weights: bool = False,
    report: Report = silent,
    judge: Judge = CLASSES,
    float_model: nn.Module,
) -> FineTuned:
    """Give a `model_of_policy` the weights, scales and BatchNorms that ``joint`` has at its bits, in place; it ends in
    evaluation mode.

    Statistics are those of `OF_BATCHNORM` that measure best on held-out images (`corrections.best_of`). The test split
    is looked at once, at the end. This is RFQuant's question: what is lost without training after the search (Tang et
    al., Retraining-free Model Quantization via One-Shot Weight-Coupling Learning, CVPR 2024). The other arguments: as
    in `ptq.calibrate`.
    """
    start = time.perf_counter()
    train, held = dataset.split("train"), some_of(dataset.split("val"), seed)
    judge = judge.beside(float_model.eval())
    images = min(BATCHNORM_IMAGES, len(train))
    inherit(model, joint)
    with on_device(model, float_model):
        tried = OF_BATCHNORM if batchnorms(model) else {NONE: OF_BATCHNORM[NONE]}
        if dataset.augment is None:
            tried = {name: words for name, words in tried.items() if name != "augmented"}

        def estimate(name: str) -> None:
            if name != NONE:
                augment = dataset.augment if name == "augmented" else None
                settle_batchnorm(model, train, images=images, seed=seed, augment=augment)

        trials = keep_best(model, policy, held, judge, tried, estimate, report)
        return untrained(
            model,
            policy,
            dataset,
            judge,
            trials,
            ranges="learned",
            images=images,
            how=NOT_FINETUNED,
            seed=seed,
            float_top1=float_top1,
            foreign_weights=foreign_weights,
            seconds=time.perf_counter() - start,
        )
