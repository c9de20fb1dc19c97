"""From a torch model to TensorRT's file: what the graph as written computes is what the trained model computes.

ONNX Runtime executes the file with every optimisation off, so each quantizer, weight and bias is taken as written.
"""

from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
from torch import nn  # noqa: E402

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("sklearn", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.datasets import open_dataset  # noqa: E402
from limpq_deploy.calibration.numbers.params import QuantParams  # noqa: E402
from limpq_deploy.export.lint.check import lint  # noqa: E402
from limpq_deploy.export.qdq.base import Layers  # noqa: E402
from limpq_deploy.export.qdq.build import build_qdq  # noqa: E402
from limpq_deploy.export.records.placement import BitPair  # noqa: E402
from limpq_deploy.export.records.targets import TENSORRT, TENSORRT_RTX, TargetSpec  # noqa: E402
from limpq_deploy.model.float_template import float_template  # noqa: E402
from limpq_deploy.model.layers import TracedModel, trace  # noqa: E402
from limpq_deploy.model.place import place  # noqa: E402
from limpq_deploy.model.zoo import create_model  # noqa: E402
from limpq_deploy.quant.fold_model import integer_model  # noqa: E402
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy  # noqa: E402
from limpq_deploy.quant.torch_parity import Fed, compare_trained  # noqa: E402
from limpq_deploy.train.float_training import train_float  # noqa: E402
from limpq_deploy.train.settings import FloatSettings  # noqa: E402

SETTINGS = FloatSettings(
    steps=60,
    batch_size=64,
    learning_rate=0.1,
    scale_learning_rate=0.01,
    warmup_steps=5,
    weight_decay=5e-4,
    label_smoothing=0.1,
    batchnorm_images=512,
)
WEIGHT_BITS, ACT_BITS = (4, 6, 3, 8, 5), (5, 4, 8, 6)


Made = tuple[TracedModel, QuantizedModel, Layers, dict[str, QuantParams], onnx.ModelProto]


@pytest.fixture(scope="module")
def resnet8() -> nn.Module:
    torch.manual_seed(0)
    model, _ = create_model("resnet8")
    train_float(model, open_dataset("digits"), settings=SETTINGS, seed=0)
    return model.eval()


def quantized_for(target: TargetSpec, model: nn.Module, pairs: tuple[BitPair, ...] = ()) -> Made:
    """A mixed-precision model with scales from real images, and its file. ``pairs``: what layers take in turn, those
    that read one tensor the same."""
    traced = trace(model, (1, 16, 16))
    placement = place(traced, target, model="resnet8")
    inputs = list(dict.fromkeys(layer.input for layer in placement.searched))
    policy = {
        layer.name: (WEIGHT_BITS[index % 5], ACT_BITS[inputs.index(layer.input) % 4])
        for index, layer in enumerate(placement.searched)
    }
    if pairs:
        policy = {layer.name: pairs[inputs.index(layer.input) % len(pairs)] for layer in placement.searched}
    quantized = model_of_policy(traced, placement, policy)
    first, _ = next(iter(open_dataset("digits").split("train").batches(256, shuffle=0)))
    quantized.initialise_scales(torch.from_numpy(first))
    quantized.set_bits(policy)
    layers, acts = integer_model(quantized.eval(), policy)
    file = build_qdq(float_template(traced, placement), placement, layers, acts, {})
    assert lint(file, target).passed
    return traced, quantized, layers, acts, file


def test_a_mixed_precision_model_computes_in_its_tensorrt_file_what_it_learned_on_real_images(
    executed: Any, resnet8: nn.Module
) -> None:
    traced, quantized, layers, acts, file = quantized_for(TENSORRT, resnet8)
    images, labels = next(iter(open_dataset("digits").split("test").batches(256)))
    logits, codes = executed(file, images)
    for name, layer in layers.items():
        np.testing.assert_array_equal(codes[f"{name}.weight_codes"], layer.codes)

    found = compare_trained(traced, quantized, layers, acts, [Fed(images, codes, logits)])
    assert {part.tensor for part in found.faithful} == {f"{name}_codes" for name in acts}
    assert all(part.max_lsb <= 1 for part in found.faithful)
    # float32 sums of 288 products in another order differ by a few 1e-5 steps
    assert all((part.max_tie_distance or 0) <= 1e-3 for part in found.faithful)
    assert sum(part.mismatches for part in found.faithful) <= 1e-5 * sum(part.elements for part in found.faithful)

    with torch.no_grad():
        expected = quantized(torch.from_numpy(images)).numpy()
    assert found.agreement == 1.0
    assert (logits.argmax(1) == labels).mean() > 0.9
    # end to end a step at a tie is carried on by the layers behind it, in a few images
    assert np.median(np.abs(logits - expected)) <= 1e-4 * np.ptp(expected)
    assert np.abs(logits - expected).max() <= 0.05 * np.ptp(expected)


def test_in_tensorrt_rtxs_file_a_layer_alone_moves_no_code_by_more_than_a_step_and_few_beside_a_tie(
    executed: Any, resnet8: nn.Module
) -> None:
    """Sums are integers, rounded to the 11 bits of FP16 in both: nothing is left to differ but float32 behind them."""
    traced, quantized, layers, acts, file = quantized_for(TENSORRT_RTX, resnet8)
    images, _ = next(iter(open_dataset("digits").split("test").batches(256)))
    logits, codes = executed(file, images)
    compared = compare_trained(traced, quantized, layers, acts, [Fed(images, codes, logits)]).faithful
    assert {part.tensor for part in compared} == codes.keys()
    assert all(part.max_lsb <= 1 and (part.max_tie_distance or 0) <= 0.05 for part in compared)
    assert sum(part.mismatches for part in compared) <= 1e-5 * sum(part.elements for part in compared)


@pytest.mark.parametrize("pairs", [((16, 16),), ((16, 16), (8, 8)), ((8, 8), (8, 8), (16, 16))], ids=len)
def test_in_tensorrt_rtxs_file_what_layers_in_fp16_alone_read_is_no_codes_in_training_neither(
    executed: Any, resnet8: nn.Module, pairs: tuple[BitPair, ...]
) -> None:
    traced, quantized, layers, acts, file = quantized_for(TENSORRT_RTX, resnet8, pairs)
    images, labels = next(iter(open_dataset("digits").split("test").batches(256)))
    logits, codes = executed(file, images)
    assert codes.keys() - {f"{name}.weight_codes" for name in layers} == {f"{name}_codes" for name in acts}
    in_use = {one.name for one in quantized.placement.quantizers if not quantized.act_quantizer(one.name).passes}
    assert in_use == acts.keys() < {one.name for one in quantized.placement.quantizers}
    found = compare_trained(traced, quantized, layers, acts, [Fed(images, codes, logits)])
    # FP16 has 11 bits, and a few roundings of a stream in a row are some of its last ones; a code is 1/127 of the range
    assert all(part.max_lsb <= 1 for part in found.faithful)
    with torch.no_grad():
        expected = quantized(torch.from_numpy(images)).numpy()
    assert np.median(np.abs(logits - expected)) <= 2e-3 * np.ptp(expected)
    assert (logits.argmax(1) == labels).mean() > 0.9


def test_a_stream_of_layers_in_fp16_is_one_tensor_in_fp16_and_so_are_its_sums(resnet8: nn.Module) -> None:
    *_, file = quantized_for(TENSORRT_RTX, resnet8, ((16, 16),))
    types = {
        one.name: one.type.tensor_type.elem_type for one in onnx.shape_inference.infer_shapes(file).graph.value_info
    }
    sums = [node for node in file.graph.node if node.op_type == "Add" and not node.name.endswith(".biased")]
    assert len(sums) == 3
    for node in sums:
        assert [types[name] for name in (*node.input, *node.output)] == [onnx.TensorProto.FLOAT16] * 3
