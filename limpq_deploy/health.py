"""Whether a server answers rightly: a canary inference. A server can say "ready" while every request fails."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.verify import load_canaries, load_manifest, verify_bundle
from limpq_deploy.server import Server, ServerUnhealthy, connected, parse_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """``images`` canaries answered in ``seconds``; ``differing`` of ``logits`` are not the expected float32 (None:
    without canaries only the shape and finiteness of the answer to a black image were looked at)."""

    address: str
    images: int
    logits: int
    differing: int | None
    seconds: float
    format: Literal["limpq.health/1"] = field(default="limpq.health/1")

    @property
    def passed(self) -> bool:
        return not self.differing


def check_health(
    url: str, *, bundle: Path | None = None, public_key: Path | None = None, timeout_s: float = 5.0
) -> Health:
    """Ask a running server the canaries of a bundle (or of a model's folder in a repository).

    Without ``bundle`` one black image is asked, and its answer only has to be finite. Raises ServerUnhealthy where no
    answer comes within ``timeout_s``, BundleRefused for a damaged bundle.
    """
    canaries, name = None, None
    if bundle is not None:
        verify_bundle(bundle, public_key)
        manifest = load_manifest(bundle, public_key)
        canaries = load_canaries(bundle, manifest)
        name = manifest.serving.get("name") if isinstance(manifest.serving, dict) else None
    address = parse_address(url, name)
    start = time.monotonic()
    with connected(address, timeout_s) as server:
        if not server.is_ready():
            raise ServerUnhealthy(f"{address} is not ready; load the model, or look at the server's log")
        if canaries is None:
            model = server.describe()
            shape = [abs(size) for size in model.shape]
            inputs, expected = np.zeros(shape, np.float32), None
        else:
            inputs, expected = canaries
        answers = ask(server, inputs)
    if not np.isfinite(answers).all():
        raise ServerUnhealthy(f"{address} gives answers that are not finite; do not serve from it")
    differing = None
    if expected is not None:
        if answers.shape != expected.shape:
            raise ServerUnhealthy(
                f"{address} answers {list(answers.shape)}, not {list(expected.shape)}: another model is served"
            )
        differing = int((answers.view(np.uint32) != expected.view(np.uint32)).sum())
    return Health(
        address=str(address),
        images=len(inputs),
        logits=answers.size,
        differing=differing,
        seconds=time.monotonic() - start,
    )


def ask(server: Server, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of many images, in requests as large as the server takes."""
    model = server.describe()
    size = max(1, model.max_batch)
    parts = [server.infer(model, images_NCHW[start : start + size]) for start in range(0, len(images_NCHW), size)]
    return np.ascontiguousarray(np.concatenate(parts))
