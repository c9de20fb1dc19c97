"""A tensor that is read over several edges, each through a call of its own: every edge has a quantizer in the file."""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from torch import Tensor, nn  # noqa: E402

from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, TargetSpec  # noqa: E402
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written  # noqa: E402
from limpq_deploy.quant.torch_parity import Fed, compare_trained  # noqa: E402

from .test_mobile_nets import SHAPE, batches, quantized  # noqa: E402

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "rows of a Linear": lambda x: x.flatten(2).transpose(1, 2),
    "pooled": lambda x: nn.functional.max_pool2d(x, 2).flatten(2).transpose(1, 2),
    "named as a method of containers": lambda x: x.flatten(2).transpose(1, 2).to(torch.float32),
}


class Attention(nn.Module):
    """Queries, keys and values read one tensor; so does the sum at the end."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.move = move
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.queries, self.keys, self.values = (nn.Linear(8, 8) for _ in range(3))
        self.again, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images))
        q, k, v = self.queries(self.move(x)), self.keys(self.move(x)), self.values(self.move(x))
        weighted = torch.softmax(q @ k.transpose(1, 2), -1) @ v
        return self.head((self.again(weighted) + self.move(x)).mean(1))


@pytest.mark.parametrize("target", [TENSORRT, ONNXRUNTIME], ids=lambda one: one.name)
@pytest.mark.parametrize("name", MOVES)
def test_equal_calls_that_read_one_tensor_keep_their_quantizers(name: str, target: TargetSpec) -> None:
    torch.manual_seed(0)
    net = quantized(Attention(MOVES[name]), target, pair=(8, 8))
    images = batches(SHAPE)[0]
    written = [node.output[0] for node in net.file.graph.node if node.op_type == "QuantizeLinear"]
    codes = [name for name in written if not name.endswith(".weight_codes")]
    results: dict[str, Any] = open_as_written(net.file, codes).run_feeds({"images": images})
    fed = Fed(images, {name: results[name] for name in codes}, results["logits"])
    trained = compare_trained(net.traced, net.model, net.layers, net.acts, [fed])
    assert {part.tensor for part in trained.faithful} == set(codes)
    assert max(part.max_lsb for part in trained.faithful) <= 1
