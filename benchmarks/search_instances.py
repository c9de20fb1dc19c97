"""Instances of the search benchmark: ResNet-50's published one, ResNet-18's size, and synthetic nets of any depth."""

from pathlib import Path

import numpy as np

from limpq_deploy.calibration.records import load_record
from limpq_deploy.indicators import Indicators, LayerIndicators, PinnedLayer

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def resnet50() -> Indicators:
    """The published indicators, with the MACs that the authors used."""
    return load_record(Indicators, GOLDEN / "resnet50_official_macs.indicators.json")


def resnet18(published: Indicators) -> Indicators:
    """ResNet-18 (He et al., 2016; torchvision's layer names) with the indicators of ResNet-50's namesakes: the size of
    its search, not its published indicators, which do not exist.

    MACs of a k x k convolution: out_size^2 * out_channels * in_channels * k^2.
    """
    namesakes = {layer.name: layer for layer in published.layers}
    layers = []
    in_channels = 64
    for stage, (channels, size) in enumerate([(64, 56), (128, 28), (256, 14), (512, 7)], start=1):
        for block in (0, 1):
            shapes = [("conv1", in_channels, 3), ("conv2", channels, 3)]
            if in_channels != channels:
                shapes.append(("downsample.0", in_channels, 1))
            for name, inputs, kernel in shapes:
                namesake = namesakes[f"layer{stage}.{block}.{name}"]
                num_weights = channels * inputs * kernel**2
                layers.append(
                    LayerIndicators(
                        name=namesake.name,
                        macs=size**2 * num_weights,
                        num_weights=num_weights,
                        weight=namesake.weight,
                        act=namesake.act,
                    )
                )
            in_channels = channels
    first = PinnedLayer(name="conv1", macs=112**2 * 64 * 3 * 49, num_weights=64 * 3 * 49, weight_bits=8, act_bits=8)
    last = PinnedLayer(name="fc", macs=512_000, num_weights=512_000, weight_bits=8, act_bits=8)
    return Indicators(model="resnet18", bits=published.bits, layers=tuple(layers), pinned=(first, last))


def synthetic(num_layers: int, seed: int = 0) -> Indicators:
    """Convolutions of common shapes; scales about halve with every bit, layers differ by a log-normal factor."""
    rng = np.random.default_rng(seed)
    halving = 1.6 / 2.0 ** np.arange(5)
    layers = []
    for index in range(num_layers):
        weight, act = (
            np.sort(rng.lognormal(mean, 1) * halving * rng.uniform(0.7, 1.3, 5))[::-1].tolist() for mean in (-3, -2)
        )
        inputs, outputs = rng.choice([64, 128, 256, 512, 1024], 2).tolist()
        kernel, size = int(rng.choice([1, 3])), int(rng.choice([7, 14, 28, 56]))
        num_weights = inputs * outputs * kernel**2
        layers.append(
            LayerIndicators(
                name=f"layer{index}",
                macs=num_weights * size**2,
                num_weights=num_weights,
                weight=tuple(weight),
                act=tuple(act),
            )
        )
    return Indicators(model=f"synthetic{num_layers}", bits=(2, 3, 4, 5, 6), layers=tuple(layers))
