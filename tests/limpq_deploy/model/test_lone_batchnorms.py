"""BatchNorms that follow no layer alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv, self.behind = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False)
        self.vectors, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.behind(self.conv(F.relu(self.norm(x))))
        return self.head(self.vectors(x.mean((2, 3))))


def made() -> nn.Module:
    torch.manual_seed(0)
    model = PreActivation()
    with torch.no_grad():
        for norm in (model.norm, model.behind, model.vectors):
            assert norm.running_mean is not None
            norm.running_mean.normal_()
            if norm.affine:
                norm.weight.normal_()
                norm.bias.normal_()
    return model.eval()


def test_each_gets_a_layer_of_ones_that_nothing_trains_and_is_pinned() -> None:
    model = made()
    traced = trace(model, (1, 8, 8))
    names = ["stem", "norm_scale", "conv", "vectors_scale", "head"]
    assert [layer.name for layer in traced.layers] == names
    assert [layer.batchnorm for layer in traced.layers] == [None, "norm", "behind", "vectors", None]
    pinned = [layer.name for layer in place(traced, ONNXRUNTIME, model="pre").pinned]
    assert pinned == ["stem", "norm_scale", "vectors_scale", "head"]
    scale = traced.graph_module.get_submodule("norm_scale")
    assert isinstance(scale, nn.Conv2d)
    assert not scale.weight.requires_grad
    assert torch.equal(scale.weight, torch.ones(4, 1, 1, 1))


def test_results_and_the_user_s_own_model_stay() -> None:
    model = made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(trace(model, (1, 8, 8)).graph_module(images), model(images))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_of_each_batch_have_no_integer_form() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False), nn.Conv2d(2, 2, 1))
    traced = trace(nn.Sequential(model, nn.Flatten(), nn.Linear(32, 2)).eval(), (1, 4, 4))
    assert "float" in traced.kinds.values()
