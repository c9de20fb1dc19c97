"""FP8 as a grid of the quantizer: values, gradients, ranges, and layers folded into codes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

from limpq_deploy.calibration.numbers.float8 import FP8_NUMBERS, nearest_fp8  # noqa: E402
from limpq_deploy.calibration.numbers.formats import FP8  # noqa: E402
from limpq_deploy.calibration.numbers.grid import QuantGrid  # noqa: E402
from limpq_deploy.calibration.numbers.ranges import RANGES, min_max  # noqa: E402
from limpq_deploy.export.records.placement import Placement  # noqa: E402
from limpq_deploy.export.records.targets import TENSORRT_RTX  # noqa: E402
from limpq_deploy.model.layers import TracedModel, trace  # noqa: E402
from limpq_deploy.model.place import place  # noqa: E402
from limpq_deploy.model.zoo import create_model  # noqa: E402
from limpq_deploy.quant.fake_quant import fake_quantize, lsq_grad_scale, quantize  # noqa: E402
from limpq_deploy.quant.quantized_model import joint_model, model_of_policy  # noqa: E402

GRID = TENSORRT_RTX.weight_grid(FP8)


@pytest.fixture(scope="module")
def resnet8() -> tuple[TracedModel, Placement]:
    torch.manual_seed(0)
    traced = trace(create_model("resnet8")[0].eval(), (1, 16, 16))
    return traced, place(traced, TENSORRT_RTX, model="resnet8")


def test_the_grid_is_the_formats_numbers_and_takes_no_other_form() -> None:
    assert (GRID.fp8, GRID.qmin, GRID.qmax) == (True, -448, 448)
    with pytest.raises(ValueError, match="FP8 has 8 bits"):
        QuantGrid(bits=4, signed=True, fp8=True)


@pytest.mark.parametrize("scale", [0.01, 1 / 3, 2.0])
def test_values_are_those_of_the_numpy_reference(scale: float) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 300 * scale
    step = torch.tensor(scale)
    expected = nearest_fp8((values / step).numpy())
    np.testing.assert_array_equal(quantize(values, step, GRID).numpy(), expected)
    found = fake_quantize(values, step, GRID, elements=1000).numpy()
    np.testing.assert_array_equal(found, expected * np.float32(scale))
    assert np.isin(expected, FP8_NUMBERS).all()


def test_gradients_go_straight_through_inside_and_pull_the_scale_by_its_rounding_error() -> None:
    values = torch.tensor([0.3, 17.3, 600.0, -600.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    fake_quantize(values, scale, GRID, elements=4).sum().backward()
    assert values.grad is not None
    assert scale.grad is not None
    assert values.grad.tolist() == [1, 1, 0, 0]
    error = (0.3125 - 0.3) + (18 - 17.3) + 448 - 448
    assert scale.grad.item() == pytest.approx(error * lsq_grad_scale(4, 448), rel=1e-5)


@pytest.mark.parametrize("method", RANGES)
def test_every_method_gives_a_range_that_loses_little(method: str) -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    scale = RANGES[method](values, GRID)
    error = (values - quantize(values, torch.tensor(scale), GRID) * scale).square().mean()
    assert error < 1e-3  # a mantissa of 3 bits: relative steps of at most 1/8
    assert 0 < scale <= min_max(values, GRID) * (1 + 1e-6)


def test_a_stream_that_layers_in_fp8_alone_read_travels_in_fp8_and_else_in_int8(
    resnet8: tuple[TracedModel, Placement],
) -> None:
    _, placement = resnet8
    names = [layer.name for layer in placement.searched]
    fp8, int8 = dict.fromkeys(names, (FP8, FP8)), dict.fromkeys(names, (8, 8))
    stream = next(one for one in placement.quantizers if one.parent is None and placement.readers_of(one)[1:])
    readers = placement.readers_of(stream)
    grids = placement.act_grids(fp8)
    assert grids[stream.name].fp8
    again = [one.name for one in placement.quantizers if one.parent == stream.name]
    assert not set(again) & grids.keys()
    mixed = placement.act_grids({**fp8, **dict.fromkeys(readers, (8, 8))})
    assert not mixed[stream.name].fp8
    assert not any(grid.fp8 for grid in placement.act_grids(int8).values())


def test_the_joint_network_knows_both_formats_of_every_tensor(resnet8: tuple[TracedModel, Placement]) -> None:
    traced, placement = resnet8
    joint, images = joint_model(traced, placement, (8, FP8)), torch.randn(4, 1, 16, 16)
    joint.initialise_scales(images)
    names = [layer.name for layer in placement.searched]
    results = []
    for width in (8, FP8):
        policy = dict.fromkeys(names, (width, width))
        joint.set_bits(policy)
        alone = model_of_policy(traced, placement, policy)
        alone.initialise_scales(images)
        alone.set_bits(policy)
        active = {one.name for one in placement.quantizers if not joint.act_quantizer(one.name).passes}
        assert active == placement.act_grids(policy).keys()
        assert active == {one.name for one in placement.quantizers if not alone.act_quantizer(one.name).passes}
        results.append(joint.eval()(images))
    assert not torch.equal(*results)
