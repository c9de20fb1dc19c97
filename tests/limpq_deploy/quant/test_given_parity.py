"""The user's own module is the reference: right graphs pass, wrong ones are refused by what differs first."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.export.reference.given_comparison import LIMIT, relative_difference
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.quant.given_parity import Given, compare_placed, compare_template, compared, run_given

SHAPE = (3, 12, 12)
IMAGES = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0))


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))


class Net(nn.Module):
    """Two blocks whose tensors are concatenated, a third, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d = block(3, 8), block(8, 8), block(16, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(*self.body(torch.relu(self.a(x))))

    def body(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + self.b(x), x

    def head(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.d(torch.cat([x, skip], 1))).mean((2, 3)))


class AddsInPlace(Net):
    """Another name for x sees the sum."""

    def body(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        skip = x
        x += self.b(x)
        return x, skip


class Drops(Net):
    def head(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return super().head(F.dropout(x, 0.5), skip)


def fresh(make: Callable[[], nn.Module] = Net) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().train()
        with torch.no_grad():
            model(IMAGES)
    return model.eval()


def forms(model: nn.Module, traced: nn.Module | None = None) -> tuple[Given, TracedModel, TracedModel]:
    """What the module gives, the traced model (of another one, as a faulty trace would be), and its equalised copy."""
    raw = copy.deepcopy(trace(traced or model, SHAPE))
    return run_given(lambda: model, IMAGES, raw), raw, equalise_channels(copy.deepcopy(raw))


def placed(model: nn.Module, traced: nn.Module | None = None) -> float:
    given, raw, traced_model = forms(model, traced)
    return compare_placed(given, traced_model, raw, place(raw, ONNXRUNTIME, model="net"))


def exported(model: nn.Module) -> onnx.ModelProto:
    _, raw, traced = forms(model)
    placement = place(raw, ONNXRUNTIME, model="net")
    return strip_markers(float_template(traced, placement))


@pytest.fixture(scope="module")
def template() -> onnx.ModelProto:
    return exported(fresh())


def test_a_network_that_is_traced_rightly_agrees_in_both_forms(template: onnx.ModelProto) -> None:
    given, raw, _ = forms(fresh())
    assert placed(fresh()) < 1e-6  # float32, three layers
    difference, by = compare_template(given, template, raw)
    assert difference is not None
    assert difference < 1e-6
    assert by == "ONNX Runtime"


@pytest.mark.parametrize("name", ["a.0", "a.1", "d.0", "fc"])
def test_a_hook_that_the_trace_does_not_see_is_refused_by_its_modules_name(name: str) -> None:
    model = fresh()
    model.get_submodule(name).register_forward_hook(lambda module, inputs, output: output * 0.25)
    with pytest.raises(ModelError, match=rf"first module that differs is '{name}' .*reads the same and gives"):
        placed(model, fresh())


def test_a_hook_before_a_module_is_refused_by_what_the_module_reads() -> None:
    model = fresh()
    model.get_submodule("b.0").register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    with pytest.raises(ModelError, match=r"first module that differs is 'b\.0'"):
        placed(model, fresh())


def test_a_sum_in_place_that_another_name_sees_agrees_and_a_trace_that_loses_it_is_refused_with_its_line() -> None:
    assert placed(fresh(AddsInPlace)) < 1e-6
    with pytest.raises(
        ModelError, match=r"'d\.0' \(Conv2d\), in what it reads, computed by .*\(test_given_parity\.py:\d+\)"
    ):
        placed(fresh(AddsInPlace), fresh())


def test_a_model_that_draws_random_numbers_is_told_so() -> None:
    model = fresh(Drops)
    raw, before = trace(fresh(), SHAPE), torch.random.get_rng_state()
    with pytest.raises(ModelError, match=r"gives other outputs when it is called again .* first in module 'd\.0'"):
        run_given(lambda: model, IMAGES, raw)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_model_whose_outputs_are_not_finite_is_told_where_they_begin() -> None:
    model = fresh()
    with torch.no_grad():
        model.get_submodule("b.1").weight[0] = float("nan")  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"not finite for 8 of 8 images, first in module 'b\.1'"):
        forms(model)


@pytest.mark.parametrize("layer", ["a.0", "d.0", "fc"])
def test_a_template_with_a_wrong_weight_is_refused_by_its_layers_name(layer: str, template: onnx.ModelProto) -> None:
    given, raw, _ = forms(fresh())
    wrong = onnx.ModelProto()
    wrong.CopyFrom(template)
    [tensor] = [one for one in wrong.graph.initializer if one.name == f"{layer}.weight"]
    tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), tensor.name))
    with pytest.raises(ModelError, match=rf"exported float model .* first layer that differs is '{layer}'"):
        compare_template(given, wrong, raw)


def far_from_zero(size: float) -> nn.Module:
    """What its first BatchNorm takes away is so large that float32 has few digits left for the rest."""
    model = fresh()
    with torch.no_grad():
        model.a[0].bias = nn.Parameter(torch.full((8,), size))  # type: ignore[index, union-attr]
        model.a[1].running_mean += size  # type: ignore[index, union-attr]
    return model


def test_a_network_is_allowed_what_its_own_float32_is_from_its_float64() -> None:
    model = far_from_zero(5e3)
    given, raw, _ = forms(model)
    assert raw.layers[0].batchnorm == "a.1"  # folded: the large numbers are gone, and their rounding too
    right = exported(model)
    difference, _ = compare_template(given, right, raw)
    assert difference is not None
    assert LIMIT < difference <= given.allowed() < 100 * LIMIT
    assert compared(given, {"float template": difference}, {}).limit == given.allowed()
    [tensor] = [one for one in right.graph.initializer if one.name == "fc.weight"]
    tensor.CopyFrom(numpy_helper.from_array(1.05 * numpy_helper.to_array(tensor), tensor.name))
    with pytest.raises(ModelError, match="exported float model"):
        compare_template(given, right, raw)


def test_a_network_that_keeps_its_digits_is_allowed_no_more() -> None:
    given, _, _ = forms(fresh())
    assert given.allowed() == LIMIT
    assert compared(given, {"float template": LIMIT / 2}, {}).limit == LIMIT


def test_a_network_without_digits_is_refused_all_the_same() -> None:
    model = far_from_zero(5e6)
    given, raw, _ = forms(model)
    with pytest.raises(ModelError, match=r"0\.01 is allowed"):
        compare_template(given, exported(model), raw)


def test_every_output_is_held_against_its_own_size() -> None:
    """A masked class of -1e9 hides no fault in the others; one next to 0 does not turn rounding into a fault."""
    exact = np.array([[1.0, 2.0, -1e9, 1e-7], [0.5, -1.0, -1e9, 2e-7]], np.float32)
    assert relative_difference(exact, exact) == 0
    wrong = exact.copy()
    wrong[0, 0] += 0.01
    assert relative_difference(exact, wrong) == pytest.approx(0.01 / 1.5, rel=1e-3)
    rounded = exact.copy()
    rounded[:, 3] += 1e-7
    assert relative_difference(exact, rounded) < LIMIT


def test_what_is_not_comparable_is_infinitely_far_apart() -> None:
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert relative_difference(zeros, zeros) == 0
    assert relative_difference(zeros, ones) == np.inf
    assert relative_difference(ones, np.full_like(ones, np.nan)) == np.inf
    assert relative_difference(ones, ones * np.inf) == np.inf
    assert relative_difference(ones, ones[:, :2]) == np.inf


def test_several_results_are_all_looked_at() -> None:
    class Pair(Net):
        parts = 2

        def forward(self, x: torch.Tensor) -> dict[str, Any]:  # type: ignore[override]
            logits = super().forward(x)
            return {"logits": logits, "more": [logits.sum(1) / self.parts]}

    model = fresh(Pair)
    given = run_given(lambda: model, IMAGES, trace(fresh(), SHAPE))
    assert [one.shape for one in given.outputs] == [(len(IMAGES), given.outputs[0].shape[1]), (len(IMAGES),)]
    Pair.parts = 0
    with pytest.raises(ModelError, match="not finite for 8 of 8 images"):
        run_given(lambda: model, IMAGES, trace(fresh(), SHAPE))


def test_the_module_is_gone_when_its_outputs_are_known_and_made_again_where_they_differ() -> None:
    """A copy of the whole network would else be there while it is exported."""
    made: list[weakref.ref[nn.Module]] = []

    def make() -> nn.Module:
        model = fresh()
        made.append(weakref.ref(model))
        return model

    raw = trace(fresh(), SHAPE)
    given = run_given(make, IMAGES, raw)
    gc.collect()
    assert made[0]() is None
    read, _ = given.watched()
    assert len(made) == 2
    assert set(read) == set(given.names)


def test_no_tensor_at_all_is_refused() -> None:
    class Silent(Net):
        def forward(self, x: torch.Tensor) -> str:  # type: ignore[override]
            return "done"

    with pytest.raises(ModelError, match="gives a str without any tensor"):
        run_given(lambda: fresh(Silent), IMAGES, trace(fresh(), SHAPE))
