"""Ranges and the choice of a correction, on the tiny net with real digits."""

from pathlib import Path

import pytest
import torch

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.numbers.ranges import RANGES, least_squares
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.quant.quantized_model import model_of_policy
from limpq_deploy.train.finetuned import FineTuned, Top1
from limpq_deploy.train.ptq import CORRECTIONS, Calibration, calibrate, set_ranges

Tiny = tuple[TracedModel, Placement]


@pytest.mark.parametrize("ranges", RANGES)
def test_every_method_sets_every_scale_from_the_values_that_a_quantizer_sees(
    tiny: Tiny, few_digits: DataSet, ranges: str
) -> None:
    traced, placement = tiny
    policy = {layer.name: (4, 4) for layer in placement.searched}
    model = model_of_policy(traced, placement, policy)
    assert set_ranges(model, few_digits.split("train"), ranges=ranges, images=100, seed=0) == 100
    images = torch.cat(list(Calibration(few_digits.split("train"), images=100, seed=0, device=torch.device("cpu"))))
    first = model.act_quantizer(placement.quantizers[0].name)
    (grid,), (scale,) = first.scales.grids, first.scales.values()
    # The input is small enough to be sampled whole; its ends, which count twice, move nothing but a percentile.
    assert scale == pytest.approx(RANGES[ranges](images, grid), rel=0.02)
    layer = model.quant_layer("conv2")
    (grid,), (scale,) = layer.scales.grids, layer.scales.values()
    method = least_squares if ranges == "entropy" else RANGES[ranges]
    assert scale == pytest.approx(method(layer.weight.detach(), grid), rel=1e-5)


def test_the_correction_that_measures_best_is_kept_and_told(tiny: Tiny, few_digits: DataSet, tmp_path: Path) -> None:
    traced, placement = tiny
    policy = {layer.name: (4, 4) for layer in placement.searched}
    model = model_of_policy(traced, placement, policy)
    before = {name: value.clone() for name, value in traced.graph_module.state_dict().items()}
    found = calibrate(model, policy, few_digits, ranges="mse", images=128, seed=0, float_top1=Top1(val=10.0, test=10.0))
    made = found.calibrated
    assert made is not None
    assert [one.name for one in made.corrections] == list(CORRECTIONS)
    best = max(made.corrections, key=lambda one: (one.top1, -one.loss))
    assert (made.chosen, found.top1.val) == (best.name, best.top1)
    assert made.why.startswith(f"{CORRECTIONS[best.name]}: {best.top1:.2f} % on 60 held-out images, ")
    assert (made.how, made.images, found.epochs, found.settings) == ("ranges only, not trained", 128, 0.0, None)
    write_record(found, tmp_path / "finetuned.json")
    assert load_record(FineTuned, tmp_path / "finetuned.json") == found
    assert all(torch.equal(before[name], value) for name, value in traced.graph_module.state_dict().items())


def test_batches_are_of_nearly_one_size_and_the_same_again(few_digits: DataSet) -> None:
    batches = Calibration(few_digits.split("train"), images=130, seed=3, device=torch.device("cpu"))
    sizes = [len(batch) for batch in batches]
    assert (sum(sizes), max(sizes) - min(sizes)) == (130, 1)
    assert all(torch.equal(one, again) for one, again in zip(batches, batches, strict=True))
