import pytest
import torch
from torch import nn

from limpq_deploy.calibration.batchnorm import batchnorms, reestimate_batchnorm


def stale_model() -> nn.Sequential:
    norm = nn.BatchNorm2d(3)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(50)
    norm.running_var.fill_(50)
    return nn.Sequential(nn.Conv2d(1, 3, 1), norm, nn.Dropout(0.9))


def batches(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 1, 4, 4, generator=generator) for size in sizes]


def test_statistics_become_the_average_over_images() -> None:
    model, data = stale_model(), batches(8, 8, 4)
    assert reestimate_batchnorm(model, data) == 20
    outputs = [model[0](batch).transpose(0, 1).flatten(1) for batch in data]
    variance = sum(len(b) * out.var(1) for b, out in zip(data, outputs, strict=True)) / 20
    # float32 running averages in another order.
    torch.testing.assert_close(model[1].running_mean, torch.cat(outputs, 1).mean(1).detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model[1].running_var, variance.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_modes_momenta_and_parameters_stay_as_they_were(training: bool) -> None:
    model = stale_model().train(training)
    model[2].eval()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    reestimate_batchnorm(model, batches(4))
    assert [module.training for module in model] == [training, training, False]
    assert model[1].momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_modes_are_put_back_after_an_error() -> None:
    model = stale_model().eval()
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(model, [torch.zeros(2, 7, 4, 4)])
    assert not model[1].training
    assert model[1].momentum == 0.1


def test_one_image_alone_gives_no_variance() -> None:
    norm = nn.BatchNorm1d(3)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), norm).eval()
    assert reestimate_batchnorm(model, batches(1)) == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert reestimate_batchnorm(model, batches(1, 4)) == 4
    assert torch.isfinite(norm.running_var).all()


def test_a_norm_without_statistics_is_passed_over() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3), nn.BatchNorm2d(3)).eval()
    assert batchnorms(model) == [model[2]]
