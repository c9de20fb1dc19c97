"""Networks that end in float: what is joined there stays in float, up to the output."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from limpq_deploy.export.lint.check import lint  # noqa: E402
from limpq_deploy.export.records.targets import ONNXRUNTIME  # noqa: E402
from limpq_deploy.export.reference.parity import compare_runtime  # noqa: E402
from limpq_deploy.export.runtimes import runtime_named  # noqa: E402
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written  # noqa: E402

from .test_mobile_nets import SHAPE, batches, conv, quantized  # noqa: E402

PIXELS = SHAPE[2] // 2


def keypoints(map: Tensor, x: Tensor) -> Tensor:
    """A soft argmax, in pixels."""
    places = torch.arange(PIXELS, dtype=torch.float32)
    p = F.softmax(map.flatten(2), -1).unflatten(2, (PIXELS, PIXELS))
    return torch.stack([(p * places).sum((2, 3)), (p * places[:, None]).sum((2, 3))], 2)


def shown(map: Tensor, x: Tensor) -> Tensor:
    """A residual of the image, cut."""
    return F.relu(x[:, :1, ::2, ::2] + map).flatten(1)


ENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "keypoints": keypoints,
    "residual of the image": shown,
    "probabilities": lambda map, x: torch.sigmoid(map).flatten(2),
    "masked image": lambda map, x: x[..., ::2, ::2] * torch.sigmoid(map[:, :1]),
    "mean of a norm": lambda map, x: F.normalize(map, dim=1).mean((2, 3)),
}


class Ending(nn.Module):
    def __init__(self, end: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.end = conv(3, 8, 3, stride=2), nn.Conv2d(8, 4, 1), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.second(F.relu(self.first(x))), x)


@pytest.mark.parametrize("name", ENDS)
def test_an_output_of_what_is_joined_in_float_is_not_rounded_to_codes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, path = quantized(Ending(ENDS[name]), pair=(8, 8)), tmp_path / "model.onnx"
    assert [quantizer.tensor for quantizer in net.placement.quantizers][-1] == "second"
    images = batches(SHAPE)[0]
    with torch.no_grad():
        expected = net.model.eval()(torch.from_numpy(images)).numpy()
    found = open_as_written(net.file, ()).run_feeds({"images": images})["logits"]
    apart = np.abs(found - expected)  # but for a code that float sums in another order round to the next
    assert np.median(apart) <= 1e-5
    onnx.save(net.file, path)
    report = compare_runtime(path, [images], runtime_named("onnxruntime"), threads=1)
    assert report.exact
    assert report.islands
    assert lint(net.file, ONNXRUNTIME).float_compute == ()
