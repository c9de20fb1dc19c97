"""Convolutions with weights of their own for each image."""

from collections.abc import Callable

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place


class Net(nn.Module):
    """``body`` convolves 8 channels with weights that are mixed for each image."""

    def __init__(self, body: Callable[["Net", Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.router, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3), nn.Conv2d(6, 2, 1)
        self.experts = nn.Parameter(torch.randn(3, 6 * 8 * 9) * 0.1)
        self.narrow = nn.Parameter(torch.randn(3, 6 * 4 * 9) * 0.1)
        self.biases = nn.Parameter(torch.randn(3, 6))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        mix = torch.softmax(self.router(x.mean((2, 3))), 1)
        return self.last(self.body(self, x, mix))


def dynamic(m: Net, x: Tensor, mix: Tensor) -> Tensor:
    batch, channels, height, width = x.size()
    weight = torch.mm(mix, m.experts).view(batch * 6, channels, 3, 3)
    out = F.conv2d(x.view(1, -1, height, width), weight=weight, stride=2, padding=1, groups=batch)
    return out.view(batch, 6, out.size(-2), out.size(-1))


def conditional(m: Net, x: Tensor, mix: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    weight, bias = (mix @ m.narrow).view(batch * 6, 4, 3, 3), (mix @ m.biases).view(-1)
    out = F.conv2d(x.reshape(1, batch * channels, height, width), weight, bias, 1, (2, 1), (2, 1), batch * 2)
    return out.permute(1, 0, 2, 3).view(batch, 6, out.shape[-2], out.shape[-1])


def modulated(m: Net, x: Tensor, mix: Tensor) -> Tensor:
    style = mix.sum(1)[:, None, None, None, None] + x.mean((2, 3))[:, None, :, None, None]
    weight = style * m.experts[0].view(1, 6, 8, 3, 3)
    weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-6)
    out = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weight.reshape(-1, 8, 3, 3), padding="same", groups=len(x))
    return out.reshape(len(x), 6, *x.shape[2:])


@pytest.mark.parametrize("body", [dynamic, conditional, modulated])
def test_each_image_is_convolved_with_its_own_weights_in_torch_and_in_the_file(
    body: Callable[[Net, Tensor, Tensor], Tensor],
) -> None:
    model, images = Net(body).eval(), torch.randn(3, 3, 6, 8)
    traced = trace(model, (3, 6, 8))
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(traced.graph_module(images), expected, rtol=1e-4, atol=1e-5)  # sums in another order
    file = strip_markers(float_template(traced, place(traced, ONNXRUNTIME, model="net"), 17))
    onnx.checker.check_model(file)
    (found,) = open_as_written(file, ()).run_feeds({file.graph.input[0].name: images.numpy()}).values()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
