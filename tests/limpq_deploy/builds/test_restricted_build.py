"""Restrictions and budgets of the search, kept by a real build up to its policy."""

from dataclasses import replace
from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.timing.table import Conversion, LatencyTable, PartTime
from limpq_deploy.pipeline.config import Config, Training
from limpq_deploy.pipeline.stages.comparison import Comparison
from limpq_deploy.pipeline.stages.run import run_build
from limpq_deploy.policy.act_costs import ActMemory
from limpq_deploy.policy.budgets import latency_budget
from limpq_deploy.policy.costs import handovers_of, total_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.workspace.workspace import Passed

CONFIG = Config(
    bits=(2, 4, 8),
    like="w5a5",
    max_act_mib=0.02,
    max_avg_weight_bits=6.0,
    min_bits=("layer1.*=4", "layer3.conv2.act=8"),
    pin=("layer2.conv1=w8a8",),
    tie=("layer1.conv1,layer1.conv2",),
    solver="cbc",
    training=Training(float_steps=2, joint_steps=2),
)


def latency_table() -> LatencyTable:
    """0.2 ms at 8 bits, half of it at 4; 0.05 ms for a change of precision between any two neighbours."""
    blocks = ("layer1", "layer2", "layer3")
    names = ["conv1", *(f"{block}.conv{number}" for block in blocks for number in (1, 2)), "linear"]
    names += [f"{block}.downsample.0" for block in blocks[1:]]
    times = [
        PartTime(layers=(name,), weight_bits=bits, act_bits=bits, ms=bits / 40) for name in names for bits in (4, 8)
    ]
    changes = [Conversion(before=(one, one), after=(12 - one, 12 - one), ms=0.05) for one in (4, 8)]
    return LatencyTable(model="resnet8", device="made up", times=tuple(times), conversions=tuple(changes))


def silent(passed: Passed) -> None:
    """Nothing to see here."""


def test_a_build_learns_sizes_and_moments_and_keeps_what_it_was_told(tmp_path: Path) -> None:
    out, times = tmp_path / "build", tmp_path / "times.json"
    table = latency_table()
    write_record(table, times)
    run_build(replace(CONFIG, out=out, latency_table=times, max_latency_ms=2.1), until="search", say=silent)
    indicators = load_record(Indicators, out / "indicators.json")
    assert all(layer.act_elements for layer in indicators.layers)
    assert {layer.kind for layer in indicators.layers} == {"conv"}
    policy = load_record(Policy, out / "policy.json")
    assert policy.solver is not None
    assert policy.solver.name.startswith("CBC")
    assert policy.solver.status == "optimal"
    comparison = load_record(Comparison, out / "comparison.json")
    assert (comparison.pair, comparison.unrestricted) == (None, (4, 4))  # a pin of w8a8 leaves w8a8, which is too dear
    pairs = policy.pairs()
    assert pairs["layer2.conv1"] == (8, 8)
    assert pairs["layer1.conv1"] == pairs["layer1.conv2"]
    assert min(pairs["layer1.conv1"]) >= 4
    assert pairs["layer3.conv2"][1] == 8
    latency = latency_budget(indicators, table, 2.1).cost
    (used,) = (cost.used for cost in policy.costs if cost.name == "latency")
    assert used == total_cost(latency, indicators, pairs) <= 2_100_000
    assert len(handovers_of(latency)) == sum(
        not {edge.producer, edge.consumer} & {layer.name for layer in indicators.pinned}
        for edge in indicators.edges or ()
    )
    weights = {layer.name: layer.num_weights for layer in indicators.layers}
    assert sum(weights[name] * pair[0] for name, pair in pairs.items()) <= 6 * sum(weights.values())
    assert indicators.moments is not None
    for moment in indicators.moments:
        assert total_cost(ActMemory(moment=moment), indicators, pairs) <= 0.02 * 2**23


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pin": ("layer2.conv1=w7a7",)}, "asks for 7 bits, .* add 7 to --bits"),
        ({"space": "native:onnxruntime", "bits": (2, 4), "pin": ()}, "asks for 8 bits, .* add 8 to --bits"),
        ({"tie": ("layer9.*,layer1.*",)}, "--tie 'layer9.*' matches no searched layer of 'resnet8'"),
    ],
)
def test_what_a_build_cannot_keep_is_said_before_it_trains(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    out = tmp_path / "build"
    with pytest.raises(SettingError, match=sentence):
        run_build(replace(CONFIG, out=out, **change), say=silent)  # type: ignore[arg-type]
    assert not out.exists()
