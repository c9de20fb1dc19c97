"""From a trained PyTorch CNN to a mixed-precision engine, proved in integers.

    look at a network      inspect(model, input_shape=(3, 224, 224))
    deploy it              build(model, data, like="w4a4")     calibrate(...), ptq(...): without training
    choose the bits        indicators(model, data)   search(...)   sweep(...)   preview(...)
    stop at the file       export(model, data)
    check files            lint(file)   parity(file)   verify(bundle)   bench(files)
    deliver                bundle(build)   ship(build, repository)
    read results           load(folder) -> Report: .indicators, .policy, .verdict, .latency, .parity
    follow                 Callback: on_stage, on_step, on_metric, on_note

``model`` is an nn.Module, a function that makes one, or a name. ``data`` is a DataLoader, a Dataset, arrays or the name
of a data set. Indicators, Policy, Front, Report and Verdict are tables: ``rows()``, ``to_frame()``, ``plot()``.
Errors that a user can mend are LimpqError, in one sentence.

Each name is imported when it is first asked for, so that importing this package loads neither torch nor a runtime. What
is not listed here may move.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from limpq_deploy.calibration.version import __version__

if TYPE_CHECKING:
    from limpq_deploy.api.builds import build, calibrate, indicators, ptq
    from limpq_deploy.api.checks import lint, parity, verify
    from limpq_deploy.api.delivery import bench, bundle, ship
    from limpq_deploy.api.finished import Report, load
    from limpq_deploy.api.policies import preview, search, sweep
    from limpq_deploy.calibration.datasets import DataSet, Preprocess
    from limpq_deploy.calibration.errors import InfeasiblePolicy, LimpqError, RuntimeUnavailable
    from limpq_deploy.callbacks import Callback
    from limpq_deploy.pipeline.inspection import inspect
    from limpq_deploy.policy.front import Front
    from limpq_deploy.policy.indicators import Indicators
    from limpq_deploy.policy.policy import Policy
    from limpq_deploy.verdict.record import Verdict

_HOMES = {
    "api.builds": ("build", "calibrate", "indicators", "ptq"),
    "api.checks": ("lint", "parity", "verify"),
    "api.delivery": ("bench", "bundle", "ship"),
    "api.finished": ("Report", "load"),
    "api.policies": ("preview", "search", "sweep"),
    "calibration.datasets": ("DataSet", "Preprocess"),
    "calibration.errors": ("InfeasiblePolicy", "LimpqError", "RuntimeUnavailable"),
    "callbacks": ("Callback",),
    "pipeline.inspection": ("inspect",),
    "policy.front": ("Front",),
    "policy.indicators": ("Indicators",),
    "policy.policy": ("Policy",),
    "verdict.record": ("Verdict",),
}

__all__ = [
    "Callback",
    "DataSet",
    "Front",
    "Indicators",
    "InfeasiblePolicy",
    "LimpqError",
    "Policy",
    "Preprocess",
    "Report",
    "RuntimeUnavailable",
    "Verdict",
    "__version__",
    "bench",
    "build",
    "bundle",
    "calibrate",
    "export",
    "indicators",
    "inspect",
    "lint",
    "load",
    "parity",
    "preview",
    "ptq",
    "search",
    "ship",
    "sweep",
    "verify",
]


class _CallableRoom(ModuleType):
    """`limpq_deploy.export` is a folder of ours and a function of the face: the module that is called exports."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return import_module("limpq_deploy.api.builds").export(*arguments, **settings)


import_module("limpq_deploy.export")
sys.modules["limpq_deploy.export"].__class__ = _CallableRoom


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
