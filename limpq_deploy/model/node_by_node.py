"""A traced graph run node by node on images of zeros: what fails is told with the line that wrote it."""

from typing import Any

import torch
from torch import fx, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.foreign import cause
from limpq_deploy.model.tracing import written_at


class NodeByNode(fx.Interpreter):
    """torch's interpreter without its log."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False
        self._running: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self._running = n
        return super().run_node(n)

    def run_on(self, images: int, shape: tuple[int, ...]) -> None:
        """Run on so many images of ``shape`` (C, H, W). Raises ModelError with the line that fails."""
        try:
            with torch.no_grad():
                self.run(torch.zeros(images, *shape, dtype=_float_type(self.module)))
        except ModelError:
            raise
        except Exception as error:
            where = written_at(self._running) if self._running is not None else ""
            if images > 1:
                NodeByNode(self.module).run_on(1, shape)  # type: ignore[arg-type]
            remedy = (
                "check the data set's image size and channels against the model"
                if images == 1
                else "expected a forward that takes any number of images at once"
            )
            count = "one image" if images == 1 else f"{images} images at once"
            raise ModelError(
                f"the model does not run on {count} of {'x'.join(map(str, shape))}: {cause(error)}{where}; {remedy}"
            ) from error


def _float_type(module: nn.Module) -> torch.dtype:
    """The type that a model's own numbers have; float32 where it has none."""
    return next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)
