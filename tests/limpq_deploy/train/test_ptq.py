"""Ranges and the choice of a correction, on the tiny net with real digits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.numbers.ranges import RANGES, least_squares
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.quant.quantized_model import model_of_policy
from limpq_deploy.tasks.score import TOP1
from limpq_deploy.train import corrections
from limpq_deploy.train.corrections import best_of, state_without_weights, why_best
from limpq_deploy.train.evaluate import Accuracy, Evaluation
from limpq_deploy.train.finetuned import Correction, FineTuned, Top1
from limpq_deploy.train.ptq import (
    CORRECTIONS,
    IN_WORDS,
    OTHER_RANGES,
    Calibration,
    calibrate,
    correct,
    set_ranges,
)

Tiny = tuple[TracedModel, Placement]
DEVICE = torch.device("cpu")


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
    settings: dict[str, Any] = {"ranges": "mse", "images": 128, "seed": 0, "float_top1": Top1(val=10.0, test=10.0)}
    found = calibrate(model, policy, few_digits, float_model=traced.graph_module, **settings)
    made = found.calibrated
    assert made is not None
    assert [one.name for one in made.corrections] == list(CORRECTIONS)
    best = next(one for one in made.corrections if one.name == made.chosen)
    assert found.top1.val == best.top1
    assert best.loss == min(one.loss for one in made.corrections if one.top1 >= best.top1)
    assert made.why.startswith(f"{CORRECTIONS[best.name]}: {best.top1:.2f} % on 60 held-out images, ")
    assert (made.how, made.images, found.epochs, found.settings) == ("ranges only, not trained", 128, 0.0, None)
    write_record(found, tmp_path / "finetuned.json")
    assert load_record(FineTuned, tmp_path / "finetuned.json") == found
    assert all(torch.equal(before[name], value) for name, value in traced.graph_module.state_dict().items())


@pytest.mark.parametrize(("wins", "kept"), [("entropy", "entropy"), ("bias", "mse")])
def test_other_ranges_are_tried_where_none_were_asked_for_and_stay_where_they_win(
    wins: str, kept: str, tiny: Tiny, few_digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, placement = tiny
    policy = {layer.name: (8, 8) for layer in placement.searched}
    model = model_of_policy(traced, placement, policy)
    monkeypatch.setattr(corrections, "best_of", lambda tried, *_: [one.name for one in tried].index(wins))
    settings: dict[str, Any] = {"images": 128, "seed": 0, "float_top1": Top1(val=10.0, test=10.0)}
    found = calibrate(model, policy, few_digits, ranges=None, float_model=traced.graph_module, **settings).calibrated
    assert found is not None
    assert [one.name for one in found.corrections] == [*CORRECTIONS, *OTHER_RANGES]
    assert (found.chosen, found.ranges) == (wins, kept)
    assert found.why.startswith(IN_WORDS[wins])
    again, train = model_of_policy(traced, placement, policy), few_digits.split("train")
    scales = {}
    for method in ("mse", "entropy"):
        set_ranges(again, train, ranges=method, images=128, seed=0)
        scales[method] = [again.act_quantizer(one.name).scales.values() for one in placement.quantizers]
    assert scales["mse"] != scales["entropy"]
    assert [model.act_quantizer(one.name).scales.values() for one in placement.quantizers] == scales[kept]


def test_batches_are_of_nearly_one_size_and_the_same_again(few_digits: DataSet) -> None:
    batches = Calibration(few_digits.split("train"), images=130, seed=3, device=torch.device("cpu"))
    sizes = [len(batch) for batch in batches]
    assert (sum(sizes), max(sizes) - min(sizes)) == (130, 1)
    assert all(torch.equal(one, again) for one, again in zip(batches, batches, strict=True))


def test_a_correction_that_makes_another_network_does_not_win_by_a_few_images(tiny: Tiny, few_digits: DataSet) -> None:
    """Fresh weights and statistics: all figures are chance, and BatchNorm estimated anew is far from float."""
    traced, placement = tiny
    with torch.no_grad():
        for name, buffer in traced.graph_module.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(9.0)
    policy = {layer.name: (8, 8) for layer in placement.searched}
    model = model_of_policy(traced, placement, policy)
    settings: dict[str, Any] = {"ranges": "mse", "images": 128, "seed": 0, "float_top1": Top1(val=10.0, test=10.0)}
    found = calibrate(model, policy, few_digits, float_model=traced.graph_module, **settings)
    assert found.calibrated is not None
    tried = {one.name: one for one in found.calibrated.corrections}
    assert found.calibrated.chosen != "batchnorm"
    assert tried["batchnorm"].loss > 10 * tried[found.calibrated.chosen].loss


@pytest.mark.parametrize(("right", "chosen"), [(6, "none"), (30, "batchnorm")])
def test_the_nearest_to_float_is_kept_until_another_is_better_beyond_chance(right: int, chosen: str) -> None:
    labels = np.zeros(100, np.int64)

    def evaluation(hits: int) -> Evaluation:
        found = np.where(np.arange(100) < hits, 0, 1)
        accuracy = Accuracy(images=100, classes=2, correct=hits, top1=float(hits), correct_top5=None, top5=None)
        return Evaluation(accuracy=accuracy, predictions=found, labels=labels)

    counts = {"none": 3, "bias": 4, "batchnorm": right}
    distances = {"none": 0.1, "bias": 0.2, "batchnorm": 0.9}
    tried = [Correction(name=name, top1=float(hits), loss=distances[name]) for name, hits in counts.items()]
    best = best_of(tried, [evaluation(hits) for hits in counts.values()], TOP1)
    assert tried[best].name == chosen
    assert ("within chance" in why_best(tried, best, 100, TOP1, CORRECTIONS)) == (chosen == "none")


def test_corrections_are_undone_without_a_copy_of_the_weights(tiny: Tiny, few_digits: DataSet) -> None:
    traced, placement = tiny
    policy = {layer.name: (8, 8) for layer in placement.searched}
    model = model_of_policy(traced, placement, policy)
    set_ranges(model, few_digits.split("train"), ranges="mse", images=64, seed=0)
    model.set_bits(policy)
    before, kept = {name: value.clone() for name, value in model.state_dict().items()}, state_without_weights(model)
    assert not {f"graph.{layer.name}.weight" for layer in placement.layers} & set(kept)
    for name in CORRECTIONS:
        correct(name, model, policy, Calibration(few_digits.split("train"), images=64, seed=0, device=DEVICE))
        model.load_state_dict(kept, strict=False)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
