"""A traced graph run node by node on images without values: what fails is told with the line that wrote it."""

from typing import Any

import torch
from torch import fx, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.foreign import cause, line_of
from limpq_deploy.model.lines import written_at
from limpq_deploy.model.on_meta import OnMeta


class NodeByNode(fx.Interpreter):
    """torch's interpreter without its log, on shapes alone."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False
        self.on_meta = OnMeta(graph_module)
        self._running: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self._running = n
        return super().run_node(n) if n.op in ("placeholder", "output") else self.on_meta.call(n, self.env)

    def run_on(self, images: int, shape: tuple[int, ...]) -> None:
        """Run on so many images of ``shape`` (C, H, W). Raises ModelError with the line that fails."""
        inputs = [node for node in self.module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        image = torch.empty(images, *shape, dtype=float_type(self.module), device="meta")
        try:
            with torch.no_grad():
                self.run(*(image.clone() for _ in inputs))
        except ModelError:
            raise
        except Exception as error:
            where = written_at(self._running) if self._running is not None else ""
            raise does_not_run(error, images, shape, where) from error


def does_not_run(error: Exception, images: int, shape: tuple[int, ...], where: str | None = None) -> ModelError:
    """What a model raised on so many images of ``shape`` (C, H, W), with its line."""
    remedy = (
        "check the data set's image size and channels against the model"
        if images == 1
        else "expected a forward that takes any number of images at once"
    )
    if any(f"c10::{kind}" in str(error) for kind in ("Half", "BFloat16")) or "same dtype" in str(error):
        remedy = "models are taken in float32: let its forward ask its own weights for their type, as in x.to(w.dtype)"
    if "cuda" in str(error).lower():
        remedy = "models are taken on the CPU: let its forward ask the images where they are, as in x.to(images.device)"
    count = "one image" if images == 1 else f"{images} images at once"
    return ModelError(
        f"the model does not run on {count} of {'x'.join(map(str, shape))}: {cause(error)}"
        f"{line_of(error) if where is None else where}; {remedy}"
    )


def float_type(module: nn.Module) -> torch.dtype:
    """The type that a model's own numbers have; float32 where it has none."""
    return next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)
