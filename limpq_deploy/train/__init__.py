"""The one training loop and what belongs to it: batches, precision, processes, checkpoints, what is seen of it."""

from limpq_deploy.train.accuracy import predictor, settle_batchnorm, settle_batchnorm_together, top1, top1_together
from limpq_deploy.train.average import WeightAverage
from limpq_deploy.train.device import on_device, settle_threads, training_device
from limpq_deploy.train.execution import Checkpoint, Execution
from limpq_deploy.train.loop import History, train
from limpq_deploy.train.optimizers import rate_factor
from limpq_deploy.train.state import GeneratorState, Stateful

__all__ = [
    "Checkpoint",
    "Execution",
    "GeneratorState",
    "History",
    "Stateful",
    "WeightAverage",
    "on_device",
    "predictor",
    "rate_factor",
    "settle_batchnorm",
    "settle_batchnorm_together",
    "settle_threads",
    "top1",
    "top1_together",
    "train",
    "training_device",
]
