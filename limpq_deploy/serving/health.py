"""Whether a server answers rightly: a canary inference. A server can say "ready" while every request fails."""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.records import from_json
from limpq_deploy.export.ship.manifest import MANIFEST, CanaryFiles, Manifest
from limpq_deploy.export.ship.repository import Serving
from limpq_deploy.export.ship.verify import load_canaries, load_manifest, verify_bundle
from limpq_deploy.serving.server import Server, ServerUnhealthy, connected, parse_address
from limpq_deploy.workspace.finished import checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """``images`` canaries answered in ``seconds``; ``differing`` of ``logits`` (numbers of all outputs) are not the
    expected float32 (None: without canaries only the finiteness of the answer to a black image was looked at).

    ``version``: the one that answered, empty where the server does not say; ``active``: the one that the model's
    folder says is to be served, empty for a bundle. The canaries are those of ``version``: between `ship` and loading,
    or while several servers take turns, an older one is no illness.
    """

    address: str
    images: int
    logits: int
    differing: int | None
    seconds: float
    version: str = ""
    active: str = ""
    format: Literal["limpq.health/1"] = field(default="limpq.health/1")

    @property
    def passed(self) -> bool:
        return not self.differing

    @property
    def behind(self) -> bool:
        """Whether another version answers than is to be served."""
        return bool(self.active and self.version) and self.version != self.active


def check_health(
    url: str, *, bundle: Path | None = None, public_key: Path | None = None, timeout_s: float = 5.0
) -> Health:
    """Ask a running server the canaries of a bundle (or, of a model's folder in a repository, those of the version that
    it serves).

    Without ``bundle`` one black image is asked, and its answer only has to be finite. Raises ServerUnhealthy where no
    answer comes within ``timeout_s``, or from a version that the folder no longer has; BundleRefused for a damaged
    bundle.
    """
    known = None if bundle is None else _Known.read(bundle, public_key)
    address = parse_address(url, known.name if known else None)
    start = time.monotonic()
    with connected(address, timeout_s) as server:
        if not server.is_ready():
            raise ServerUnhealthy(f"{address} is not ready; load the model, or look at the server's log")
        expected, answers, version = _ask_black(server) if known is None else _ask_canaries(server, known)
    if not np.isfinite(answers).all():
        raise ServerUnhealthy(f"{address} gives answers that are not finite; do not serve from it")
    differing = None
    if expected is not None:
        if answers.shape != expected.shape:
            raise ServerUnhealthy(
                f"{address} answers {list(answers.shape)}, all outputs in a row, not {list(expected.shape)}: another "
                "model is served"
            )
        differing = int((answers.view(np.uint32) != expected.view(np.uint32)).sum())
    return Health(
        address=str(address),
        images=len(answers),
        logits=answers.size,
        differing=differing,
        seconds=time.monotonic() - start,
        version=version,
        active=known.active if known else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a verified folder holds. ``canaries``: by version; of a bundle under the empty one."""

    folder: Path
    manifest: Manifest
    canaries: dict[str, CanaryFiles]
    name: str | None = None
    active: str = ""

    @classmethod
    def read(cls, folder: Path, public_key: Path | None) -> "_Known":
        verify_bundle(folder, public_key)
        checked(folder)
        manifest = load_manifest(folder, public_key)
        if manifest.serving is None:
            return cls(folder=folder, manifest=manifest, canaries={"": manifest.canaries})
        serving = from_json(Serving, json.dumps(manifest.serving), f"{folder / MANIFEST}, serving")
        canaries = {str(shipped.version): shipped.canaries for shipped in serving.shipped}
        return cls(folder=folder, manifest=manifest, canaries=canaries, name=serving.name, active=str(serving.active))

    def load(self, version: str, server: Server) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Inputs and expected answers of a version. Raises ServerUnhealthy where it is not known."""
        files = self.canaries.get("" if "" in self.canaries else version or self.active)
        if files is None:
            raise ServerUnhealthy(
                f"{server.address} serves version {version}, of which {self.folder} has no canaries (versions there: "
                f"{', '.join(self.canaries)}); load the model again"
            )
        return load_canaries(self.folder, replace(self.manifest, canaries=files))


Asked = tuple[NDArray[np.float32] | None, NDArray[np.float32], str]
"""Expected answers, the server's, and the version that gave them."""


def _ask_black(server: Server) -> Asked:
    model = server.describe()
    answers, version = server.answer(model, np.zeros([abs(size) for size in model.shape], np.float32))
    return None, answers, version


def _ask_canaries(server: Server, known: _Known) -> Asked:
    """Asked twice where a new version was loaded in between."""
    for _ in range(2):
        version = server.describe().version
        inputs, expected = known.load(version, server)
        answers, versions = _ask(server, inputs)
        if versions <= {version, ""}:
            return expected, answers, version
    raise ServerUnhealthy(f"{server.address} changes its version while it is asked; ask again when it has settled")


def ask(server: Server, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """All outputs of many images [N, numbers], in requests as large as the server takes."""
    return _ask(server, images_NCHW)[0]


def _ask(server: Server, images_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], set[str]]:
    model = server.describe()
    size = max(1, model.max_batch)
    parts = [server.answer(model, images_NCHW[start : start + size]) for start in range(0, len(images_NCHW), size)]
    return np.ascontiguousarray(np.concatenate([rows for rows, _ in parts])), {version for _, version in parts}
