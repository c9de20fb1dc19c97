"""What is known of a built engine: of what and where it was built, what the builder made of each layer.

A plan is executable code, bound to the GPU model, the TensorRT version and the system that it was built for. So its
record keeps all of these, and `require_usable` refuses a plan whose bytes or machine are others, before it is loaded.
"""

import hashlib
from dataclasses import dataclass

from limpq_deploy.calibration.errors import RuntimeUnavailable


class PlanRefused(RuntimeUnavailable):
    """A plan is not the one that its record describes, or belongs to another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLayer:
    """One layer of an engine, as its inspector shows it.

    ``kind``: the inspector's layer type. ``precision``: of its computation, "int8", "float16", "float32", or another
    type's own name; of its first output where it computes nothing. ``nodes``: operators of the file that went into it.
    ``tactic``: the kernel, where it has a name. ``reformat``: it only changes a tensor's layout or type, and the file
    does not ask for it. ``weights``: type of its weights, None where it has none or the inspector tells none.
    ``reads``, ``writes``: types of its inputs and outputs, empty where the inspector names none. ``operations``: what
    is fused in it, in order, where its kernel's name tells.
    """

    name: str
    kind: str
    precision: str
    nodes: tuple[str, ...] = ()
    tactic: str | None = None
    reformat: bool = False
    weights: str | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OneBuild:
    """One of several builds of a file. ``ms``: median of a short timing at the best batch; None where there is one
    build only."""

    seconds: float
    plan_bytes: int
    plan_sha256: str
    layers: int
    ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a plan is bound to. ``compute_capability``: such as "9.0"; ``driver``: its release, None where it does not
    tell; ``cuda``: the newest CUDA that the driver serves."""

    gpu: str
    compute_capability: str
    tensorrt: str
    system: str
    driver: str | None = None
    cuda: str | None = None
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A built engine's file.

    ``flags``: of network and builder, by TensorRT's names. ``settings``: of `EngineOptions`, as they took effect.
    ``timing_cache_sha256``: of the cache as the build left it; None where none was kept. ``chosen``: index in
    ``builds``. ``warnings``: the builder's, each once. ``log``: file name of the whole log beside the plan.
    """

    sha256: str
    size: int
    machine: Machine
    typing: str
    flags: tuple[str, ...]
    settings: dict[str, str]
    builds: tuple[OneBuild, ...]
    chosen: int
    layers: tuple[EngineLayer, ...]
    timing_cache_sha256: str | None = None
    warnings: tuple[str, ...] = ()
    log: str | None = None

    @property
    def reformats(self) -> tuple[EngineLayer, ...]:
        """Layers that only change a layout or a type."""
        return tuple(layer for layer in self.layers if layer.reformat)

    @property
    def spread(self) -> float | None:
        """Slowest over fastest build, less one; None where fewer than two were timed."""
        times = [build.ms for build in self.builds if build.ms is not None]
        return max(times) / min(times) - 1 if len(times) > 1 else None


def require_usable(plan: Plan, data: bytes, here: Machine) -> None:
    """Raise PlanRefused unless ``data`` are the bytes of the record and ``here`` is a machine that the plan runs on.

    The driver may be newer than the one that built the plan.
    """
    if hashlib.sha256(data).hexdigest() != plan.sha256:
        raise PlanRefused(
            f"the plan's {len(data):,} bytes are not those of its record ({plan.size:,} bytes, SHA-256 "
            f"{plan.sha256[:12]}...); a plan is code: it was not loaded; build it again"
        )
    for what, built, found in (
        ("GPU", plan.machine.gpu, here.gpu),
        ("compute capability", plan.machine.compute_capability, here.compute_capability),
        ("TensorRT", plan.machine.tensorrt, here.tensorrt),
        ("system", plan.machine.system, here.system),
    ):
        if built != found:
            raise PlanRefused(
                f"the plan was built for {what} {built}, and this machine has {found}; build it again here"
            )
