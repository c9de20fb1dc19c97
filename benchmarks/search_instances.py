"""Instances of the search benchmark: ResNet-50's published one, ResNet-18's size, and synthetic nets of any depth."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.timing.table import Conversion, LatencyTable, PartTime
from limpq_deploy.policy.indicators import Indicators, LayerEdge, LayerIndicators, PinnedLayer

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


def with_conversions(published: Indicators) -> tuple[Indicators, LatencyTable]:
    """ResNet-50 with its edges, and a made-up device: 2e12 MACs a second at w8a8, three precisions, conversions of 2 us
    and 20 to 30 ps per element, about a tensor's way through memory at 100 GB/s. Nothing here was measured."""
    edges = []
    stream, size, channels = "conv1", 56, 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            inputs, half = size**2 * channels, 2 if block == 0 and stage > 1 else 1
            name = f"layer{stage}.{block}"
            first, second, third = (f"{name}.conv{number}" for number in (1, 2, 3))
            edges += [(stream, first, inputs), (first, second, size**2 * width)]
            size, channels = size // half, 4 * width
            edges.append((second, third, size**2 * width))
            maker = f"{name}.downsample.0" if block == 0 else third
            if block == 0:
                edges += [(stream, maker, inputs), (third, maker, size**2 * channels)]
            else:
                edges.append((stream, maker, inputs))
            stream = maker
    edges.append((stream, "fc", 2048))
    rng = np.random.default_rng(0)
    everything: list[LayerIndicators | PinnedLayer] = [*published.layers, *published.pinned]
    times = [
        PartTime(layers=(layer.name,), weight_bits=w, act_bits=a, ms=layer.macs / 2e9 * share * rng.uniform(0.9, 1.1))
        for layer in everything
        for w, a, share in ((4, 4, 0.6), (4, 8, 0.85), (8, 8, 1.0))
    ]
    conversions = [
        Conversion(before=before, after=after, ms=0.002, ns_per_element=0.02 if before < after else 0.03)
        for before, after in permutations([(4, 4), (4, 8), (8, 8)], 2)
        if before[1] != after[1]
    ]
    known = {layer.name for layer in everything}
    return (
        replace(
            published,
            edges=tuple(
                LayerEdge(producer=producer, consumer=consumer, elements=elements)
                for producer, consumer, elements in edges
                if producer in known and consumer in known
            ),
        ),
        LatencyTable(
            model="resnet50", device="made up", times=tuple(times), conversions=tuple(conversions), other_ms=0.1
        ),
    )


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
