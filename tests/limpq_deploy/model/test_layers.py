import copy

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.layers import trace


class TwoConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.c = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(torch.relu(self.bn(self.a(x)))).mean((2, 3)))


def test_macs_are_counted_from_output_shapes_strides_and_groups_included() -> None:
    traced = trace(TwoConvolutions(), (2, 7, 7))
    positions = 4 * 4
    assert {layer.name: layer.macs for layer in traced.layers} == {
        "a": positions * 4 * 2 * 9,
        "b": positions * 4 * 9,
        "c": 4 * 3,
    }
    assert [layer.num_weights for layer in traced.layers] == [72, 36, 12]


def test_a_batchnorm_is_known_by_the_layer_before_it() -> None:
    assert [layer.batchnorm for layer in trace(TwoConvolutions(), (2, 7, 7)).layers] == ["bn", None, None]


def test_tracing_does_not_change_the_mode_of_the_model() -> None:
    model = TwoConvolutions().train()
    trace(model, (2, 7, 7))
    assert model.training
    assert model.bn.training


def test_an_image_of_the_wrong_size_is_told_as_such() -> None:
    with pytest.raises(ModelError, match="does not run on one image of 3x7x7"):
        trace(TwoConvolutions(), (3, 7, 7))


def test_a_layer_called_twice_is_two_layers_of_equal_weights() -> None:
    class Twice(TwoConvolutions):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.b(torch.relu(self.a(x)))).mean((2, 3)))

    model = Twice().eval()
    traced = trace(model, (2, 7, 7))
    assert [layer.name for layer in traced.layers] == ["a", "b", "b_call2", "c"]
    first, second = (traced.graph_module.get_submodule(name) for name in ("b", "b_call2"))
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    assert torch.equal(first.weight, second.weight)
    assert first.weight is not second.weight
    images = torch.randn(2, 2, 7, 7)
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)


def test_a_forward_that_branches_on_values_is_refused_in_a_sentence() -> None:
    class Branching(TwoConvolutions):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(ModelError, match="the model cannot be traced: "):
        trace(Branching(), (2, 7, 7))


def test_a_deep_traced_model_can_be_copied_whatever_was_looked_up_of_it() -> None:
    deep = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(400)), nn.Flatten(), nn.Linear(4, 2))
    traced = trace(deep.eval(), (1, 2, 2))
    first = traced.nodes["_0"]
    copied = copy.deepcopy(traced)
    assert copied.nodes["_0"] is not first
    assert copied.nodes["_0"] in copied.graph_module.graph.nodes
    assert copied.graph_module.get_submodule("0") is not deep[0]
    assert copied.layers == traced.layers


class Stepping(nn.Module):
    """A layer that reads a state of zeros first, then what it gave; and another that reads nothing else."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        self.conv, self.state, self.alone = nn.Conv2d(3, 4, 1), nn.Linear(4, 4), alone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.alone:
            return self.state(torch.ones(len(x), 4)) + x.mean((1, 2, 3))[:, None]
        state = x.new_zeros(x.size(0), 4)
        for _ in range(3):
            state = torch.relu(self.state(state) + self.conv(x).mean((2, 3)))
        return state


def test_a_call_that_reads_nothing_of_the_images_has_weights_of_its_own() -> None:
    model, images = Stepping(alone=False).eval(), torch.randn(2, 3, 4, 4)
    traced = trace(model, (3, 4, 4))
    named = {str(node.target) for node in traced.nodes.values() if str(node.target).startswith("state")}
    assert named == {"state", "state_call2", "state_call3"}
    assert {layer.name for layer in traced.layers} & named == {"state", "state_call2"}
    assert traced.kinds[next(node.name for node in traced.nodes.values() if node.target == "state_call3")] == "constant"
    torch.testing.assert_close(traced.graph_module(images), model(images))


def test_a_model_whose_only_layer_reads_nothing_of_the_images_is_told_so() -> None:
    with pytest.raises(ModelError, match=r"layer state \(test_layers.py:\d+\) reads nothing of the images, and"):
        trace(Stepping(alone=True).eval(), (3, 4, 4))
