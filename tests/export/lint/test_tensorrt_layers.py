"""Which layers TensorRT runs in integers: the rules against what its builder made of the same files."""

from pathlib import Path

import onnx
import pytest
from onnx import checker, helper

from limpq_deploy.export.lint.check import lint, static_findings
from limpq_deploy.export.lint.finding import gravest
from limpq_deploy.export.records.targets import TENSORRT, TENSORRT_RTX
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS
from tests.export.lint import lint_cases as cases

MEASURED = [
    *((cases.between, build, name, None) for name, build in cases.INTEGERS.items()),
    *((cases.between, build, name, "float") for name, build in cases.READ_IN_FLOAT.items()),
    *((cases.convolution, build, name, None) for name, build in cases.CONV_INTEGERS.items()),
    *((cases.convolution, build, name, "float") for name, build in cases.CONV_FLOAT.items()),
    *((cases.convolution, build, name, "refused") for name, build in cases.CONV_REFUSED.items()),
    *((cases.product, build, name, None) for name, build in cases.PRODUCT_INTEGERS.items()),
    *((cases.product, build, name, "float") for name, build in cases.PRODUCT_FLOAT.items()),
]


@pytest.mark.parametrize(
    ("make", "build", "name", "outcome"),
    MEASURED,
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", None),
)
def test_a_file_is_judged_as_it_was_built(make: object, build: object, name: str, outcome: str | None) -> None:
    model = make(build, 21 if name == "blocks" else 17)  # type: ignore[operator]
    checker.check_model(model)
    found = tuple(static_findings(model, TENSORRT, TENSORRT_FORMS["11"]))
    worst = gravest(found)
    assert (None if worst == "slower" else worst) == outcome, found


def test_a_layer_says_which_node_keeps_it_float() -> None:
    (finding,) = lint(cases.between(cases.READ_IN_FLOAT["LeakyRelu"]), TENSORRT).findings
    assert (finding.rule, finding.severity, finding.node) == ("input-float", "float", "Conv4")
    assert finding.consequence == "LeakyRelu 'LeakyRelu2' makes it in float: this layer stays float"


def test_a_scale_that_is_computed_from_constants_is_known_and_one_from_the_images_is_not() -> None:
    def scaled(net: cases.SmallNet, scale: str) -> onnx.ModelProto:
        zero = net.const(cases.np.int8(0))
        codes = net.op("QuantizeLinear", "x", scale, zero)
        return net.model(net.conv(net.op("DequantizeLinear", codes, scale, zero)))

    for value, outcome in ((0.02, None), (-0.02, "refused")):
        net = cases.SmallNet()
        half = net.const(cases.np.float32(value))
        assert gravest(lint(scaled(net, net.op("Add", half, half)), TENSORRT).findings) == outcome
    net = cases.SmallNet()
    assert [one.rule for one in lint(scaled(net, net.op("ReduceMax", "x", keepdims=0)), TENSORRT).findings] == [
        "scale-constant",
        "scale-constant",
    ]


def test_an_fp8_file_runs_in_fp8_and_a_mixture_is_refused() -> None:
    def of(*kinds: int) -> onnx.ModelProto:
        net = cases.SmallNet(19)
        pairs = []
        for source, kind in zip(("x", net.const(cases.np.ones((8, 8, 3, 3), "f"))), kinds, strict=True):
            pairs.append(net.pair(source, 0.05, helper.make_tensor("", kind, [], [0])))
        return net.model(net.conv(*pairs))

    eight, floats = onnx.TensorProto.INT8, onnx.TensorProto.FLOAT8E4M3FN
    assert lint(of(eight, eight), TENSORRT).findings == ()
    assert [one.rule for one in lint(of(floats, floats), TENSORRT).findings] == ["fp8"]
    assert [one.rule for one in lint(of(floats, eight), TENSORRT).findings] == ["convolution-codes"]
    assert list(static_findings(of(floats, floats), TENSORRT_RTX)) == []  # a format of that target
    assert [one.rule for one in static_findings(of(floats, eight), TENSORRT_RTX)] == ["convolution-codes"]
    assert "constant-type" in {one.rule for one in lint(of(floats, floats), TENSORRT, version="8.6").findings}


def test_types_follow_the_definitions_of_operators() -> None:
    """Counts and indices that are cast for a product with floats are no mixture of types."""
    net = cases.SmallNet()
    result = net.conv(net.pair("x"))
    net.nodes.append(helper.make_node("TopK", [result, net.const(cases.whole(3))], ["top", "places"], name="top"))
    places = net.op("Cast", net.op("Add", "places", net.const(cases.whole(1))), to=onnx.TensorProto.FLOAT)
    where = net.op("Where", net.op("Equal", "top", "top"), "top", "top")
    mixed = net.op("Mul", net.op("Mul", "top", where), "places")
    findings = lint(net.model(net.op("Add", net.op("Mul", where, places), mixed)), TENSORRT).findings
    assert [(one.rule, one.node) for one in findings if one.severity == "refused"] == [("types-agree", mixed[:-4])]


def test_fp8_in_modelopts_own_operators_is_read_too(tmp_path: Path) -> None:
    net = cases.SmallNet()
    pairs = []
    for source in ("x", net.const(cases.np.ones((8, 8, 3, 3), "f"))):
        scale = net.const(cases.np.float32(0.05))
        codes = net.op("TRT_FP8QuantizeLinear", source, scale, domain="trt")
        pairs.append(net.op("TRT_FP8DequantizeLinear", codes, scale, domain="trt"))
    model = net.model(net.conv(*pairs))
    model.opset_import.add(domain="trt", version=1)
    onnx.save(model, tmp_path / "model.onnx")
    assert [one.rule for one in lint(tmp_path / "model.onnx", TENSORRT).findings] == ["fp8"]


@pytest.mark.parametrize("opset", [13, 17, 21, 23, 24, 25])
def test_every_operator_set_of_today_is_read_by_11(opset: int) -> None:
    assert lint(cases.between(cases.INTEGERS["nothing"], opset), TENSORRT).findings == ()
