"""Values that a network cuts from 0 to a bound: the file for ONNX Runtime cuts them there, whatever reads them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written  # noqa: E402

from .test_mobile_nets import SHAPE, batches, compared, quantized  # noqa: E402

CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(0, 1),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 1.0),
    "ReLU6": F.relu6,
}


class Denoiser(nn.Module):
    """DnCNN: the noise is subtracted from the image, and what is left is cut."""

    def __init__(self, cut: Callable[[Tensor], Tensor], *, subtract: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.last, self.cut, self.subtract = nn.Conv2d(8, 3, 3, padding=1), cut, subtract
        with torch.no_grad():
            self.last.weight.mul_(4)  # so that some are cut

    def forward(self, x: Tensor) -> Tensor:
        noise = self.last(F.relu(self.norm(self.first(x))))
        return self.cut(x - noise if self.subtract else noise)


class Middle(nn.Module):
    """A cut between two layers."""

    def __init__(self, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.cut = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), cut

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.cut(self.first(x)))


@pytest.mark.parametrize("subtract", [True, False], ids=["of a float", "of codes"])
@pytest.mark.parametrize("name", CUTS)
def test_an_output_is_cut_as_torch_cuts_it(name: str, subtract: bool) -> None:
    torch.manual_seed(0)
    net = quantized(Denoiser(CUTS[name], subtract=subtract), pair=(8, 8))
    images = batches(SHAPE)[0]
    with torch.no_grad():
        expected = net.model.eval()(torch.from_numpy(2 * images)).numpy()
    found = open_as_written(net.file, ()).run_feeds({"images": 2 * images})["logits"]
    assert (expected == expected.max()).mean() > 0.002
    step = max(float(params.scale[0]) for params in net.acts.values())  # float sums in another order: one code
    assert step < 0.1
    np.testing.assert_allclose(found, expected, atol=1.01 * step)


@pytest.mark.parametrize("name", ["clamp", "hardtanh"])
def test_a_cut_before_a_layer_holds_where_scales_reach_beyond_it(name: str, tmp_path: Path) -> None:
    """Scales three times as large as they start, as powers of two and training may make them."""
    torch.manual_seed(0)
    net = quantized(Middle(CUTS[name]), pair=(8, 8), stretched=3.0)
    report, trained, linted = compared(net, tmp_path / "model.onnx")
    assert report.exact
    assert linted.float_compute == ()
    assert max(entry.max_lsb for entry in trained.faithful) <= 1
