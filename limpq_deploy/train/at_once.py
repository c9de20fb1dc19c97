"""How many images are computed at once: their activations, and not a network's weights, are what fills memory."""

from limpq_deploy.calibration.datasets import Split

FEWEST_FOR_BATCHNORM = 32
"""Images of a batch that BatchNorm takes its statistics from, however large they are."""
PIXELS = 131_072
"""Of a batch: 128 images of 32 px, 32 of 64 px. Larger ones gain little on a CPU (`benchmarks/batches.py`)."""


def images_at_once(split: Split, *, least: int, most: int) -> int:
    """As many as have `PIXELS`, within bounds. ``least``: what the work needs, for BatchNorm's statistics of a batch,
    say; at large images that is what counts."""
    pixels = split.preprocess.height * split.preprocess.width
    return max(least, min(most, PIXELS // pixels))
