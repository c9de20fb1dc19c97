"""The one training loop and what belongs to it: batches, precision, processes, checkpoints, what is seen of it."""

from limpq_deploy.training.accuracy import predictor, settle_batchnorm, settle_batchnorm_together, top1, top1_together
from limpq_deploy.training.average import WeightAverage
from limpq_deploy.training.device import on_device, settle_threads, training_device
from limpq_deploy.training.execution import Checkpoint, Execution
from limpq_deploy.training.loop import History, train
from limpq_deploy.training.optimizers import rate_factor
from limpq_deploy.training.state import GeneratorState, Stateful

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
