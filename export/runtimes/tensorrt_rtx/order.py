"""What a build is asked for and what comes of it: records between a build's process and the one that asked for it."""

from dataclasses import dataclass

from limpq_deploy.export.records.engine_options import EngineOptions

ORDER, RESULT, MODEL, PLAN = "order.json", "result.json", "model.onnx", "engine.plan"
"""Files of a build's folder."""

BATCHES = (1, 8)
"""Batches for which it is told what an engine moves, beside the one that it is fastest at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """``capabilities``: names of `capabilities.CAPABILITIES` that one engine may be for."""

    options: EngineOptions
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``failed``: why there is no engine, in one sentence, None where there is one. ``typing``, ``flags``,
    ``settings``, ``seconds``: as in `build.Built`. ``lines``: of the log, (severity, message); ``layers``: the
    list of its layers. ``tuned``: the list of an engine tuned for a batch of its own, by that batch as text."""

    version: str
    lines: tuple[tuple[str, str], ...]
    layers: str = ""
    tuned: dict[str, str] | None = None
    failed: str | None = None
    typing: str = "strong"
    flags: tuple[str, ...] = ()
    settings: dict[str, str] | None = None
    seconds: float = 0.0
