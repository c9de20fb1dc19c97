"""Files held against what they promise: lint, parity, verify, evaluate. No torch, but for a build's parity."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from limpq_deploy.api.finished import Report, folder_of
from limpq_deploy.api.policies import require_torch
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.callbacks import Listener, listening
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.lint.check import lint as check
from limpq_deploy.export.records.targets import EXPORTED, TENSORRT, TargetSpec, target_named
from limpq_deploy.export.records.tensorrt_versions import target_of
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.ship.verify import VerifyReport
from limpq_deploy.pipeline.file_parity import IMAGES, check_file
from limpq_deploy.pipeline.inspect_model import verify_and_replay

if TYPE_CHECKING:
    from limpq_deploy.export.reference.foreign_parity import FileParity


class NoTarget(SettingError):
    """Neither the caller nor the file says which target is meant, or it is the wrong one for a version."""


def lint(
    model: Any, target: str | TargetSpec | None = None, *, tensorrt: str | None = None, apart: bool = True
) -> LintReport:
    """What a target makes of an ONNX file: what it refuses, runs in float, computes otherwise, or slower.

    ``model``: a path or a loaded ``onnx.ModelProto``. ``target``: ``onnxruntime``, ``tensorrt``, ...; None: what the
    file itself says. ``tensorrt``: rules of this version, ``8.6``, ``10`` or ``11``. ``apart``: try the file in a
    process of its own. Where ONNX Runtime or NVIDIA's compiler is installed, the file is really loaded.

    Raises NoTarget where no target is known, ModelError for a file that cannot be read.

    Examples:
        >>> limpq_deploy.lint("limpq-build/model.qdq.onnx").passed
        True
    """
    loaded = load_model(Path(model)) if isinstance(model, str | Path) else model
    said = target_of(loaded) or (TENSORRT if tensorrt is not None else None)
    spec = target_named(target) if isinstance(target, str) else target or said
    if spec is None:
        raise NoTarget(
            f"Missing option '--target': {model if isinstance(model, str | Path) else 'the model'} does not say for "
            f"which runtime it is written; choose {' or '.join(EXPORTED)}"
        )
    if tensorrt is not None and tensorrt not in spec.versions:
        raise NoTarget(f"--tensorrt is a version of TensorRT, and the target is {spec.name}; leave it away")
    return check(loaded, spec, version=tensorrt, compiler=True, apart=apart)


def parity(
    subject: Report | str | Path,
    *,
    data: Any = None,
    images: int | None = None,
    model: Any = None,
    trusted: bool = False,
    progress: Listener | None = None,
) -> "ParityReport | FileParity":
    """Integers of the reference against those of ONNX Runtime's optimised graph, code by code.

    ``subject``: a build, whose trained model is compared too, or an ONNX file of any tool. ``data``: a SPEC of images
    for a file (None: random ones), ``images`` their number. ``model`` and ``data`` again: the objects that a build was
    made of, where that was in another process. ``trusted``: modules that the build names may be imported.

    ``.exact`` says whether all codes are equal. Raises RecordError for a folder that is no build, ModelError for a
    graph outside of what the reference computes.

    Examples:
        >>> limpq_deploy.parity("limpq-build/model.qdq.onnx", images=4).exact
        True
    """
    path = folder_of(subject)
    with listening(progress) as listener:
        if path.is_file():
            if model is not None:
                raise SettingError(f"model has no effect on the file {path}, which is compared as it is; leave it away")
            return check_file(path, data=data, images=images or IMAGES)
        if isinstance(data, str) or images is not None:
            raise SettingError("--data and --images are for a file; a build is compared on its own test images")
        require_torch("comparing with the trained model")
        from limpq_deploy.api.objects import give_again
        from limpq_deploy.pipeline.stages.run import repeat_parity

        give_again(model, data)
        return repeat_parity(path, say=listener.on_stage, trusted=trusted)


def verify(bundle: str | Path, *, replay: bool = True, key: str | Path | None = None) -> VerifyReport:
    """Check every file of a bundle by its SHA-256, then run its canaries (recorded images) and compare bit for bit.

    ``bundle``: a bundle, or a model's folder in a repository. ``replay`` False: files only. ``key``: the public key of
    those who may sign. Raises BundleRefused for a file that is missing, changed or not signed.

    Examples:
        >>> limpq_deploy.verify("limpq-build/bundle", replay=False).files > 0
        True
    """
    return verify_and_replay(Path(bundle), replay=replay, public_key=None if key is None else Path(key))
