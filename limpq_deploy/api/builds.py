"""Builds: from a model and data to indicators, to an ONNX file, to a measured bundle."""

import difflib
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from limpq_deploy.api.finished import Report
from limpq_deploy.calibration.datasets import Preprocess
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.callbacks import Callback, Listener, listening
from limpq_deploy.optional_packages import require_modules
from limpq_deploy.pipeline.config import Config, make_config
from limpq_deploy.pipeline.settings import TRAINING_OPTIONS
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.progress import progress as reporting

LOG = logging.getLogger("limpq_deploy")


def build(
    model: Any = None,
    data: Any = None,
    *,
    out: str | Path | None = None,
    like: str | None = None,
    max_mib: float | None = None,
    target: str | None = None,
    bits: Sequence[int] | None = None,
    ptq: bool = False,
    trained: bool = True,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | Path | None = None,
    name: str | None = None,
    config: str | Path | None = None,
    until: str | None = None,
    fresh: bool = False,
    progress: Listener | None = None,
    **settings: Any,
) -> Report:
    """All stages in order: float model, indicators, policy, training, export, parity, latency, verdict, bundle.

    ``model``: an ``nn.Module``, whose weights are taken and which stays as it is; a function that makes one; or a name
    (``torchvision/resnet18``, ``package.module:factory``). None: a small ResNet. ``data``: a DataLoader, a torch
    Dataset, arrays (images, labels), a dict of these by ``train``, ``val`` and ``test``, or a SPEC such as
    ``imagefolder:PATH``. None: digits. Float images [C, H, W] are taken as they are; uint8 [H, W, C] are scaled by
    ``preprocess``, the module's own or to 0..1.

    ``out``: the folder (``limpq-build``). ``like``, ``max_mib``: budgets, as in `search`. ``bits``: candidate widths, 2
    to 8. ``ptq``: ranges only, nothing is trained. ``trained`` False: the module's numbers are random, and the float
    model is trained first. ``classes``: names in the order of the outputs. ``name``: of the model in records.
    ``config``: a TOML file. ``until``: the last stage. ``fresh``: repeat finished stages. ``progress``: a `Callback`,
    or a function of (title, done, total, note). ``settings``: every other option of ``limpq-deploy build``, by its
    name with underscores; a dict ``training`` holds those of ``[training]``.

    A failed check does not raise: read ``report.verdict.outcome``. Raises LimpqError, in one sentence, for what a user
    can mend; finished stages stay, and the same call goes on from there.

    Examples:
        >>> report = limpq_deploy.build(net, loader, ptq=True, like="w8a8", bits=[8], out="mine", engine=False)
        >>> report.model.name
        'model.qdq.onnx'
    """
    given = {"like": like, "max_mib": max_mib, "target": target, "out": None if out is None else Path(out), **settings}
    given |= {"bits": None if bits is None else tuple(bits), "ptq": True if ptq else None}
    _require_known(given)
    require_modules(("torch",), "training")
    with listening(progress) as listener:
        with reporting("loading torch", brief=True):
            from limpq_deploy.api.objects import data_name, model_name
            from limpq_deploy.pipeline.stages.run import help_build, run_build
            from limpq_deploy.train.processes import follows
        named: Any = classes
        given["model"] = model_name(model, name=name, preprocess=preprocess, trained=trained)
        if data is not None and not isinstance(data, str):
            named = None
            given["data"] = data_name(data, model=model, classes=classes)  # type: ignore[arg-type]
        elif data is not None:
            given["data"] = data
        given["classes"] = named
        asked = make_config(given, None if config is None else Path(config))
        if follows():
            help_build(asked, until=until)
            return Report(asked.out)
        outcome = run_build(asked, until=until, fresh=fresh, say=listener.on_stage, note=_noting(listener, progress))
    return Report(asked.out, outcome)


def calibrate(model: Any = None, data: Any = None, **settings: Any) -> Report:
    """`build` without training: ranges from 512 images, corrected where that measures better (``ptq=True``).

    ``settings``: as in `build`; ``ranges`` is mse, minmax, percentile or entropy, ``calibration_images`` their number.

    Examples:
        >>> report = limpq_deploy.calibrate(net, loader, like="w8a8", bits=[8], out="mine", engine=False)
        >>> tuple(report.policy.bits["conv2"])
        (8, 8)
    """
    return build(model, data, ptq=True, **settings)


ptq = calibrate
"""The same, by its other name."""


def indicators(model: Any = None, data: Any = None, **settings: Any) -> Indicators:
    """How much each layer loses at each bit-width: the learned scales of one joint training.

    Arguments as in `build`, which stops after that stage; `search` asks any budget of the result. ``macs`` are of one
    image, scales have the unit of the weights and activations that they divide. Source: as `search`.

    Examples:
        >>> found = limpq_deploy.indicators(net, loader, bits=[4, 8], out="learned", training={"joint_steps": 2})
        >>> found.bits, [layer.name for layer in found.layers]
        ((4, 8), ['conv2'])
    """
    found = build(model, data, until="indicators", **settings).indicators
    assert found is not None
    return found


def export(model: Any = None, data: Any = None, **settings: Any) -> Report:
    """`build` up to the Q/DQ ONNX file, which needs no runtime; ``report.model`` is its path.

    Examples:
        >>> limpq_deploy.export(net, loader, ptq=True, like="w8a8", bits=[8], out="mine").model.suffix
        '.onnx'
    """
    return build(model, data, until="export", **settings)


def plan(*, config: str | Path | None = None, fresh: bool = False, **settings: Any) -> Any:
    """Which stages a build with these settings would run now, and why; does nothing."""
    from limpq_deploy.pipeline.stages.plan import plan_build

    _require_known(settings)
    return plan_build(make_config(settings, None if config is None else Path(config)), fresh=fresh)


def _noting(listener: Callback, given: Listener | None) -> Any:
    """Notes go to the listener, or to the log where nobody listens."""
    return listener.on_note if isinstance(given, Callback) else LOG.info


def _require_known(settings: dict[str, Any]) -> None:
    known = {*(field.name for field in fields(Config)), *TRAINING_OPTIONS}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingError(f"{name!r} is no setting of a build{hint}; see `limpq-deploy build --help` for all")
