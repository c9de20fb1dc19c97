"""How long a certified policy search takes: building the program, solving it and proving the answer.

`resnet50_seconds`: the published ResNet-50 instance (W3A4 at compression ratio 12.2, 52 layers x 25 pairs), which must
give the published objective. `resnet18_seconds`: ResNet-18 at 224x224, its true MACs and weights computed here from the
architecture, with the published ResNet-50 indicators of the layers that have the same name (every searched layer of
ResNet-18 has one), at W3A4 and compression ratio 10: the size of ResNet-18's search, not its published indicators,
which do not exist.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

from limpq_deploy.calibration.records import load_record
from limpq_deploy.costs import budgets_from_options
from limpq_deploy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy import Policy
from limpq_deploy.search import search_policy

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
PUBLISHED_OBJECTIVE = 4.61743923


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 runs of each instead of 20")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    runs = 5 if options.quick else 20
    resnet50 = load_record(Indicators, GOLDEN / "resnet50_official_macs.indicators.json")
    large = measure(resnet50, runs, like="w3a4", compression_ratio=12.2)
    small = measure(resnet18(resnet50), runs, like="w3a4", compression_ratio=10)
    if abs(large["policy"].objective - PUBLISHED_OBJECTIVE) > 1e-8:
        raise SystemExit(f"the objective is {large['policy'].objective}, not the published {PUBLISHED_OBJECTIVE}")
    result = {
        "resnet50_seconds": statistics.median(large["seconds"]),
        "resnet18_seconds": statistics.median(small["seconds"]),
        "resnet50_gap": large["policy"].solver.gap,
        "resnet18_gap": small["policy"].solver.gap,
        "resnet50_raw_seconds": large["seconds"],
        "resnet18_raw_seconds": small["seconds"],
        "warm_up_runs": 1,
        "solver": large["policy"].solver.name,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))


def measure(indicators: Indicators, runs: int, *, like: str, compression_ratio: float) -> dict:
    """Wall seconds of whole searches, raw, after one warm-up; and the policy. Raises SystemExit if one is unproved."""
    budgets = budgets_from_options(indicators, like=like, compression_ratio=compression_ratio)
    seconds: list[float] = []
    policy: Policy = search_policy(indicators, budgets)
    for _ in range(runs):
        started = time.perf_counter()
        policy = search_policy(indicators, budgets)
        seconds.append(time.perf_counter() - started)
    if policy.solver is None or policy.solver.status != "optimal":
        raise SystemExit(f"{indicators.model}: the answer is not proved optimal: {policy.solver}")
    return {"policy": policy, "seconds": seconds}


def resnet18(resnet50: Indicators) -> Indicators:
    """ResNet-18 (He et al., 2016; torchvision's layer names) with the indicators of ResNet-50's namesakes.

    MACs of a k x k convolution: out_size^2 * out_channels * in_channels * k^2.
    """
    namesakes = {layer.name: layer for layer in resnet50.layers}
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
    return Indicators(model="resnet18", bits=resnet50.bits, layers=tuple(layers), pinned=(first, last))


if __name__ == "__main__":
    main()
