"""limpq-deploy: from a trained PyTorch CNN to a mixed-precision engine, proved in integers.

The names below are the library's face; each is imported when it is first asked for, so that importing this package
loads neither torch nor a runtime. What lies behind them may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from limpq_deploy.calibration.version import __version__

if TYPE_CHECKING:
    from limpq_deploy.calibration.datasets import DataSet, Preprocess
    from limpq_deploy.calibration.errors import InfeasiblePolicy, LimpqError, RuntimeUnavailable
    from limpq_deploy.calibration.records import load_record, write_record
    from limpq_deploy.export.lint.check import LintReport, lint
    from limpq_deploy.export.records.placement import Placement
    from limpq_deploy.export.records.targets import TargetSpec, target_named
    from limpq_deploy.export.reference.parity import ParityReport
    from limpq_deploy.export.timing.report import LatencyReport
    from limpq_deploy.model.layers import trace
    from limpq_deploy.model.place import place
    from limpq_deploy.pipeline.config import Config, make_config
    from limpq_deploy.pipeline.inspection import inspect
    from limpq_deploy.pipeline.stages.run import run_build
    from limpq_deploy.policy.indicators import Indicators
    from limpq_deploy.policy.policy import Policy
    from limpq_deploy.policy.search import search_policy
    from limpq_deploy.verdict.record import Verdict

_HOMES = {
    "calibration.datasets": ("DataSet", "Preprocess"),
    "calibration.errors": ("InfeasiblePolicy", "LimpqError", "RuntimeUnavailable"),
    "calibration.records": ("load_record", "write_record"),
    "export.lint.check": ("LintReport", "lint"),
    "export.records.placement": ("Placement",),
    "export.records.targets": ("TargetSpec", "target_named"),
    "export.reference.parity": ("ParityReport",),
    "export.timing.report": ("LatencyReport",),
    "model.layers": ("trace",),
    "model.place": ("place",),
    "pipeline.config": ("Config", "make_config"),
    "pipeline.inspection": ("inspect",),
    "pipeline.stages.run": ("run_build",),
    "policy.indicators": ("Indicators",),
    "policy.policy": ("Policy",),
    "policy.search": ("search_policy",),
    "verdict.record": ("Verdict",),
}

__all__ = [
    "Config",
    "DataSet",
    "Indicators",
    "InfeasiblePolicy",
    "LatencyReport",
    "LimpqError",
    "LintReport",
    "ParityReport",
    "Placement",
    "Policy",
    "Preprocess",
    "RuntimeUnavailable",
    "TargetSpec",
    "Verdict",
    "__version__",
    "inspect",
    "lint",
    "load_record",
    "make_config",
    "place",
    "run_build",
    "search_policy",
    "target_named",
    "trace",
    "write_record",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
