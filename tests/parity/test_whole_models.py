"""From a torch model to the runtime: every code of the exported graph equals the integer reference."""

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.lint.check import lint  # noqa: E402
from limpq_deploy.export.qdq.build import build_qdq, strip_markers  # noqa: E402
from limpq_deploy.export.records.targets import ONNXRUNTIME  # noqa: E402
from limpq_deploy.export.reference.parity import compare_runtime  # noqa: E402
from limpq_deploy.export.runtimes import runtime_named  # noqa: E402
from limpq_deploy.model.float_template import float_template  # noqa: E402
from limpq_deploy.model.layers import trace  # noqa: E402
from limpq_deploy.model.place import place  # noqa: E402
from limpq_deploy.model.zoo import create_model  # noqa: E402
from limpq_deploy.quant.fold_model import integer_model  # noqa: E402
from limpq_deploy.quant.quantized_model import model_of_policy  # noqa: E402

SHAPES = {"resnet8": (1, 16, 16), "resnet20": (3, 32, 32)}


@pytest.mark.parametrize("name", SHAPES)
def test_an_exported_model_runs_in_integers_and_equals_the_reference(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model, _ = create_model(name)
    traced = trace(model.eval(), SHAPES[name])
    placement = place(traced, ONNXRUNTIME, model=name)
    act_bits = {layer.input: int(random.integers(2, 9)) for layer in placement.searched}
    policy = {layer.name: (int(random.integers(2, 9)), act_bits[layer.input]) for layer in placement.searched}
    quantized = model_of_policy(traced, placement, policy)
    quantized.train()
    with torch.no_grad():
        quantized(torch.randn(32, *SHAPES[name]))
    layers, acts = integer_model(quantized.eval(), policy)
    template = float_template(traced, placement)

    path = tmp_path / "model.qdq.onnx"
    onnx.save(build_qdq(template, placement, layers, acts, {}), path)
    images = [random.normal(0, spread, (16, *SHAPES[name])).astype(np.float32) for spread in (1, 100)]
    runtime = runtime_named("onnxruntime")
    report = compare_runtime(path, images, runtime, threads=1)
    assert report.exact
    assert not report.unwatched
    found = lint(path, ONNXRUNTIME)
    assert found.passed
    assert found.float_nodes == ()
    assert set(runtime.engine(path).layer_precision) == {layer.name for layer in placement.layers}

    float_path = tmp_path / "float.onnx"
    onnx.save(strip_markers(template), float_path)
    assert set(runtime.engine(float_path).layer_precision.values()) == {"float32"}
    with torch.no_grad():
        expected = traced.graph_module(torch.from_numpy(images[0])).numpy()
    # float32 sums of up to 576 products in another order: a few 1e-6 of the logits' range
    np.testing.assert_allclose(runtime.load(float_path).run(images[0]), expected, atol=1e-4 * np.abs(expected).max())
