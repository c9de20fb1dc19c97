"""Files for the versions of TensorRT: what each is written like, and that all compute the same."""

from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.graph.split_at_quantizers import cut_model
from limpq_deploy.export.lint.check import static_findings
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS
from limpq_deploy.export.records.tensorrt_versions import (
    form_for,
    form_of,
    installed_version,
    target_of,
)
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written
from limpq_deploy.export.runtimes.tensorrt.inspect import planned_precision

VERSIONS = tuple(TENSORRT_FORMS)


def written(net: Any, logits: Any, version: str, floats: dict[str, int] | None = None) -> onnx.ModelProto:
    """The file of a net for a version, some layers that run in float at these bits."""
    form = TENSORRT_FORMS[version]
    template = net.template(logits)
    template.opset_import[0].version = form.opset
    layers = dict(net.layers)
    for name, bits in (floats or {}).items():
        one = layers[name]
        column = (slice(None),) + (None,) * (one.codes.ndim - 1)
        layers[name] = FloatLayer(
            name=name, bits=bits, weight_bits=bits, weight=one.codes * one.scale[column], bias=one.bias
        )
    return build_qdq(template, net.placement, layers, net.acts, {}, form)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    return open_as_written(model).run_feeds({"images": images})["logits"]


def fixed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def type_of(model: onnx.ModelProto, tensor: str) -> int:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    found = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    return found[tensor]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_its_opset_and_form_of_weights_and_passes_its_rules(edges: Any, version: str) -> None:
    net, logits = edges(1)
    model = written(net, logits, version)
    onnx.checker.check_model(model, full_check=True)
    assert list(static_findings(model, TENSORRT)) == []
    form = form_of(model, TENSORRT)
    assert form is TENSORRT_FORMS[version]
    assert [entry.version for entry in model.opset_import] == [form.opset]
    constants = fixed(model)
    for name, layer in net.layers.items():
        assert (f"{name}.weight" in constants) == (form.weights == "float32")
        if form.weights == "int8":
            np.testing.assert_array_equal(constants[f"{name}.weight_codes"], layer.codes)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not np.any(constants[node.input[2]]), "an explicit zero-point 0"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_says_for_which_target_it_is_written(edges: Any, residual: Any, version: str) -> None:
    net, logits = edges(1)
    assert target_of(written(net, logits, version)) is TENSORRT
    net, logits = residual(0)
    assert target_of(net.qdq(logits)) is ONNXRUNTIME
    assert target_of(net.template(logits)) is None


def test_all_versions_compute_the_same_bit_by_bit_and_are_cut_alike(edges: Any) -> None:
    net, logits = edges(2, act_bits=(5, 4, 3))
    images = net.images(4, saturating=True)
    models = [written(net, logits, version) for version in VERSIONS]
    first, *others = (run(model, images) for model in models)
    for other in others:
        np.testing.assert_array_equal(other, first)
    cuts = [cut_model(model)[1] for model in models]
    assert cuts[0] == cuts[1] == cuts[2] != ()


@pytest.mark.parametrize("version", ["10", "11"])
def test_a_layer_of_16_bits_is_an_island_in_fp16_and_its_relu_and_pool_stay_in_it(edges: Any, version: str) -> None:
    net, logits = edges(3)
    model = written(net, logits, version, {"stem": 16, "block1.conv2": 16})
    onnx.checker.check_model(model, full_check=True)
    assert list(static_findings(model, TENSORRT)) == []
    constants = fixed(model)
    for name in ("stem", "block1.conv2"):
        assert constants[f"{name}.weight"].dtype == constants[f"{name}.bias"].dtype == np.float16
    half = {TensorProto.FLOAT16}
    assert {type_of(model, tensor) for tensor in ("stem", "stem_relu", "stem.pool")} == half
    assert type_of(model, "block1.add") == TensorProto.FLOAT
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 4  # one into and one out of each island, however many read it
    assert all(constants[node.input[1]].dtype == np.float32 for node in model.graph.node if "Linear" in node.op_type)
    planned = planned_precision(model)
    assert {name for name, precision in planned.items() if precision == "float16"} == {"stem", "block1.conv2"}
    images = net.images(6)
    exact, found = run(written(net, logits, version), images), run(model, images)
    # 11 bits of mantissa in products of 27 and 72 numbers; codes flip at ties
    assert np.abs(found - exact).max() <= 0.05 * np.ptp(exact)
    assert not np.array_equal(found, exact)


def test_a_relu6_in_an_island_is_bounded_in_fp16(tiny_net: Any) -> None:
    net = tiny_net(4, "tensorrt")
    images = net.quantize(net.input, "images", 8, signed=True)
    conv = net.conv(images, "stem", 8, relu=False)
    bounds = [net.constant(name, np.array(value, np.float32)) for name, value in (("zero", 0), ("six", 6))]
    conv.name = net.node("Clip", [conv.name, *bounds], "stem_relu6")
    logits = net.gemm(net.quantize(net.flatten(net.mean(conv, "pool"), "flat"), "pool.out", 8), "head", 10)
    model = written(net, logits, "10", {"stem": 16})
    onnx.checker.check_model(model, full_check=True)
    assert type_of(model, "stem_relu6") == TensorProto.FLOAT16
    assert fixed(model)["six.half"] == np.float16(6)
    assert run(model, net.images(2)).shape == (2, 10)


@pytest.mark.parametrize(("version", "bits"), [("8.6", 16), ("8.6", 32), ("10", 32)])
def test_other_float_layers_are_plain_fp32_and_change_nothing(edges: Any, version: str, bits: int) -> None:
    """Where typing is weak the builder's flag decides; 32 bits are FP32 everywhere."""
    net, logits = edges(5)
    model = written(net, logits, version, {"block1.conv1": bits})
    assert fixed(model)["block1.conv1.weight"].dtype == np.float32
    assert "Cast" not in {node.op_type for node in model.graph.node}
    images = net.images(4)
    np.testing.assert_allclose(run(model, images), run(written(net, logits, version), images), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.01, 1e-6])
def test_integer_weights_of_an_island_have_fp16_scales_where_fp16_holds_them(edges: Any, scale: float) -> None:
    net, logits = edges(8)
    one = net.layers["block1.conv1"]
    scales = np.full_like(one.scale, scale)
    weight = one.codes * scales[:, None, None, None]
    layer = FloatLayer(
        name=one.name, bits=16, weight_bits=4, weight=weight, bias=one.bias, codes=one.codes, scale=scales
    )
    template = net.template(logits)
    template.opset_import[0].version = 20
    layers = {**net.layers, one.name: layer}
    model = build_qdq(template, net.placement, layers, net.acts, {}, TENSORRT_FORMS["10"])
    assert list(static_findings(model, TENSORRT)) == []
    node = next(node for node in model.graph.node if node.name == one.name)
    maker = next(maker for maker in model.graph.node if node.input[1] in maker.output)
    half = scale > 1e-4
    assert fixed(model)[f"{one.name}.weight_scale"].dtype == (np.float16 if half else np.float32)
    assert maker.op_type == ("DequantizeLinear" if half else "Cast")
    assert np.isfinite(run(model, net.images(2))).all()


def test_integer_weights_of_a_convolution_that_reads_floats_are_plain_floats_for_8_6(edges: Any) -> None:
    """TensorRT 8 fuses a pair on a convolution's weight only together with one on its input; a Gemm takes it alone."""
    net, logits = edges(9)
    layers = {
        name: FloatLayer(
            name=name,
            bits=16,
            weight_bits=4,
            weight=one.codes * one.scale[(slice(None),) + (None,) * (one.codes.ndim - 1)],
            bias=one.bias,
            codes=one.codes,
            scale=one.scale,
        )
        for name, one in net.layers.items()
    }
    floats = tuple(replace(quantizer, bits=16) for quantizer in net.placement.quantizers)
    placement = replace(net.placement, quantizers=floats)
    models = {}
    for version in ("8.6", "10"):
        template = net.template(logits)
        template.opset_import[0].version = TENSORRT_FORMS[version].opset
        models[version] = build_qdq(template, placement, layers, {}, {}, TENSORRT_FORMS[version])
    pairs = {
        version: [node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"]
        for version, model in models.items()
    }
    assert pairs["10"] == [f"{name}.weight_dequantized" for name in layers]
    assert pairs["8.6"] == ["head.weight_dequantized"]
    assert all(list(static_findings(model, TENSORRT)) == [] for model in models.values())
    for name, layer in layers.items():
        np.testing.assert_array_equal(fixed(models["8.6"])[f"{name}.weight"], layer.weight)


def test_a_weight_that_fp16_cannot_hold_is_refused_by_name(edges: Any) -> None:
    net, logits = edges(6)
    net.layers["stem"].bias[1] = 1e6
    with pytest.raises(ModelError, match=r"layer 'stem' has a weight or bias of 1e\+06, which FP16 cannot hold"):
        written(net, logits, "10", {"stem": 16})


def test_the_version_is_the_installed_one_or_else_8_6(monkeypatch: pytest.MonkeyPatch) -> None:
    assert form_for(ONNXRUNTIME, "8.6").opset == 21
    for installed, expected in (("8.6.1", "8.6"), ("10.16.1.11", "10"), ("11.4.0.106", "11"), ("12.0", "11")):
        monkeypatch.setattr(metadata, "version", lambda name, found=installed: found)
        assert form_for(TENSORRT).version == installed_version(TENSORRT) == expected

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert installed_version(TENSORRT) is None
    assert form_for(TENSORRT).version == "8.6"
    with pytest.raises(ModelError, match=r"TensorRT 9 is not known here; files are written for 8\.6, 10, 11"):
        form_for(TENSORRT, "9")


def test_a_template_at_an_opset_that_no_version_takes_is_refused(edges: Any) -> None:
    net, logits = edges(7)
    template = net.template(logits)
    template.opset_import[0].version = 19
    with pytest.raises(ModelError, match="the template has opset 19; the target takes 17 or 20 or 21"):
        build_qdq(template, net.placement, net.layers, net.acts, {})
