"""Planned against actual: made-up engines, whose times show one thing each."""

from dataclasses import replace
from typing import Any

import onnx
import pytest

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.engine_record import EngineLayer, Machine, Plan
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.runtimes.tensorrt.inspect import compute_nodes, layer_precision
from limpq_deploy.export.timing.engine_audit import Audit, audit

HERE = Machine(gpu="GPU", compute_capability="9.0", tensorrt="8.6.0", system="Linux x86_64")
COPY = EngineLayer(name="copy", kind="Reformat", precision="int8", reformat=True)


def engine_of(model: onnx.ModelProto, precisions: dict[str, str], *others: EngineLayer) -> Engine:
    """An engine that runs each layer of a file in a layer of its own, named after it."""
    nodes = compute_nodes(model)
    layers = tuple(
        EngineLayer(name=f"{name} kernel", kind="CaskConvolution", precision=precision, nodes=(nodes[name], "relu"))
        for name, precision in precisions.items()
    )
    plan = Plan(
        sha256="0" * 64,
        size=1,
        machine=HERE,
        typing="weak",
        flags=(),
        settings={},
        builds=(),
        chosen=0,
        layers=(*layers, *others),
    )
    return Engine(
        model_sha256="0" * 64,
        runtime="tensorrt",
        version="8.6.0",
        provider="GPU",
        threads=None,
        options={},
        layer_precision=layer_precision(model, plan.layers),
        plan=plan,
    )


@pytest.fixture
def model(edges: Any) -> onnx.ModelProto:
    net, logits = edges(0)
    found: onnx.ModelProto = net.qdq(logits)
    return found


LAYERS = ("stem", "block1.conv1", "block1.conv2", "block2.conv", "head")
ALL_INT8 = dict.fromkeys(LAYERS, "int8")


def samples(ms: dict[str, float]) -> dict[str, list[float]]:
    return {name: [value * factor for factor in (0.98, 1.0, 1.0, 1.02)] for name, value in ms.items()}


def test_an_engine_that_does_as_planned_has_nothing_to_say(model: onnx.ModelProto) -> None:
    found = audit(model, engine_of(model, ALL_INT8))
    assert [line.layers for line in found.lines] == [(name,) for name in LAYERS]
    assert all(line.as_planned for line in found.lines)
    assert (found.absent, found.reformats, found.notes) == ((), 0, ())
    assert from_json(Audit, to_json(found), "audit.json") == found


def test_layers_of_another_precision_and_missing_ones_are_named(model: onnx.ModelProto) -> None:
    found = audit(model, engine_of(model, {"stem": "int8", "block1.conv1": "float16", "head": "int8"}))
    assert found.unplanned == ("block1.conv1",)
    assert found.absent == ("block1.conv2", "block2.conv")
    assert found.notes == (
        "1 layers run in another precision than planned: block1.conv1 (s8s8 planned, float16).",
        "The engine shows nothing of 2 layers: block1.conv2, block2.conv.",
    )


def test_a_layer_of_which_no_precision_is_told_is_not_said_to_run_in_another(model: onnx.ModelProto) -> None:
    found = audit(model, engine_of(model, ALL_INT8 | {"stem": "unknown", "head": "float32"}))
    assert (found.precision_unknown, found.unplanned) == (("stem",), ("head",))
    assert found.notes == (
        "1 layers run in another precision than planned: head (s8s8 planned, float32).",
        "The engine does not report the precision of 1 layers: stem.",
    )


def test_a_float_layer_may_run_in_halves_where_the_builder_chooses(edges: Any) -> None:
    net, logits = edges(0)
    plain = strip_markers(net.template(logits))
    halves = engine_of(plain, dict.fromkeys(LAYERS, "float16"))
    assert halves.plan is not None
    assert audit(plain, halves).unplanned == LAYERS
    assert audit(plain, replace(halves, plan=replace(halves.plan, flags=("FP16",)))).unplanned == ()


def test_an_integer_layer_that_is_slower_than_in_float_is_named(model: onnx.ModelProto) -> None:
    integer, half = engine_of(model, ALL_INT8), engine_of(model, dict.fromkeys(LAYERS, "float16"))
    times = {f"{name} kernel": 0.1 for name in LAYERS}
    found = audit(
        model,
        integer,
        samples(times | {"stem kernel": 0.3}),
        float_model=model,
        float_engine=half,
        float_samples=samples(dict.fromkeys(times, 0.2)),
    )
    assert found.slower == ("stem",)
    assert found.total_ms == pytest.approx(0.7)
    assert found.notes == ("1 integer layers are slower than in float: stem.",)


@pytest.fixture
def plain(edges: Any) -> onnx.ModelProto:
    """The float file of the same model, its operators named by the exporter as they came."""
    net, logits = edges(0)
    found = strip_markers(net.template(logits))
    for number, node in enumerate(found.graph.node):
        node.name = f"node_{node.op_type}_{number}"
    return found


def test_layers_of_the_float_engine_are_found_by_the_names_in_its_own_file(
    model: onnx.ModelProto, plain: onnx.ModelProto
) -> None:
    """The exporter's Conv is node_Conv_8 where the integer file's is conv1."""
    assert not set(compute_nodes(model).values()) & set(compute_nodes(plain).values())
    integer, half = engine_of(model, ALL_INT8), engine_of(plain, dict.fromkeys(LAYERS, "float16"))
    times = {f"{name} kernel": 0.1 for name in LAYERS}
    found = audit(
        model,
        integer,
        samples(times | {"head kernel": 0.4}),
        float_model=plain,
        float_engine=half,
        float_samples=samples(dict.fromkeys(times, 0.2)),
    )
    assert [line.float_time is not None and line.float_time.ms for line in found.lines] == [pytest.approx(0.2)] * 5
    assert found.slower == ("head",)


def test_layers_that_the_float_engine_runs_together_are_compared_only_where_the_other_does_too(
    model: onnx.ModelProto, plain: onnx.ModelProto
) -> None:
    nodes = compute_nodes(plain)
    both = EngineLayer(name="both", kind="CaskConvolution", precision="float16", nodes=(nodes["stem"], nodes["head"]))
    half = engine_of(plain, {"block2.conv": "float16"}, both)
    times = samples({"both": 0.2, "block2.conv kernel": 0.1})
    found = audit(model, engine_of(model, ALL_INT8), float_model=plain, float_engine=half, float_samples=times)
    assert [line.layers for line in found.lines if line.float_time is not None] == [("block2.conv",)]


def test_a_layer_whose_node_stands_on_a_copy_too_is_one_line(model: onnx.ModelProto) -> None:
    beside = EngineLayer(name="beside", kind="Scale", precision="float16", nodes=(compute_nodes(model)["stem"],))
    found = audit(model, engine_of(model, ALL_INT8, beside), samples({"stem kernel": 0.1, "beside": 0.02}))
    assert [line.layers for line in found.lines] == [(name,) for name in LAYERS]
    assert found.lines[0].actual == "s8s8"
    assert found.other_ms == pytest.approx(0.02)


def test_a_difference_within_the_quartiles_is_none(model: onnx.ModelProto) -> None:
    integer, half = engine_of(model, ALL_INT8), engine_of(model, dict.fromkeys(LAYERS, "float16"))
    times = {f"{name} kernel": 0.1 for name in LAYERS}
    spread = {name: [0.05, 0.1, 0.11, 0.2] for name in times}
    found = audit(model, integer, spread, float_model=model, float_engine=half, float_samples=samples(times))
    assert found.slower == ()


def test_reformats_are_counted_with_their_share_and_a_slow_engine_is_called_so(model: onnx.ModelProto) -> None:
    integer = engine_of(model, ALL_INT8, COPY)
    times = samples({f"{name} kernel": 0.1 for name in LAYERS} | {"copy": 0.25, "pool": 0.25})
    found = audit(model, integer, times, float_samples={"whole": [0.9]})
    assert (found.reformats, found.reformat_ms, found.other_ms) == (1, 0.25, 0.25)
    assert found.notes[0] == "1 reformat layer takes 25.0 % of the profiled time."
    assert "no faster than the float one (1.000 against 0.900 ms)" in found.notes[1]
