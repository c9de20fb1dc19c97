"""What TensorRT fuses, and where quantizers stand so that it can: at paddings and at branches dropped at random."""

import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.export.records.targets import TENSORRT
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place, with_quantizers
from limpq_deploy.model.zoo.torchvision import import_torchvision


class OwnPad(nn.Module):
    """A convolution with a padding of its own, as exporters of other frameworks write it."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.a = nn.Conv2d(1, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 2, 3, stride=2)
        self.c = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pad(torch.relu(self.a(F.pad(x, (1, 1, 1, 1)))))
        return self.c(torch.relu(self.b(x)).mean((2, 3)))


def test_tensorrt_quantizes_before_a_layers_own_padding() -> None:
    """Zeros stay zeros, so nothing changes but that Pad and convolution can be one kernel."""
    traced = trace(OwnPad(), (1, 8, 8))
    graph = with_quantizers(traced, place(traced, TENSORRT, model="own pad"), lambda quantizer: nn.Identity())
    readers = {str(node.target): list(node.users) for node in graph.graph.nodes if "quantizers." in str(node.target)}
    assert [user.target for user in readers["quantizers.x"]] == [F.pad]
    assert [user.target for user in readers["quantizers.relu"]] == ["pad"]
    image = torch.randn(2, 1, 8, 8)
    assert torch.equal(graph(image), traced.graph_module(image))


def test_a_branch_that_training_drops_at_random_is_no_identity_for_tensorrt() -> None:
    """EfficientNet's ``stochastic_depth(conv(x)) + x``: the quantizer stands on x."""
    torchvision = import_torchvision()

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
            self.branch = nn.Conv2d(2, 2, 3, padding=1)
            self.drop = torchvision.ops.StochasticDepth(0.2, "row")
            self.linear = nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.linear((self.drop(self.branch(x)) + x).mean((2, 3)))

    placement = place(trace(Dropped().eval(), (1, 8, 8)), TENSORRT, model="dropped")
    assert [quantizer.tensor for quantizer in placement.quantizers if not quantizer.layers] == ["stem_1"]
