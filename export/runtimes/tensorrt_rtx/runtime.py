"""TensorRT-RTX: engines built once per (file, settings, capabilities, version) on any machine, kept with their records.

Building and running are two questions: `cannot_build` is about this machine's packages, `unavailable` about its GPU.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from limpq_deploy.calibration.errors import MissingExtra, RuntimeUnavailable, SettingError
from limpq_deploy.calibration.files import cache_folder, sha256_of, write_text
from limpq_deploy.calibration.plain_text import plain, visible
from limpq_deploy.calibration.records import load_record, to_json
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.records.engine_record import Machine
from limpq_deploy.export.records.targets.tensorrt_rtx import TENSORRT_RTX_GPU
from limpq_deploy.export.runtimes.base import CompiledEngine
from limpq_deploy.export.runtimes.tensorrt.log import Report
from limpq_deploy.export.runtimes.tensorrt.runtime import (
    TensorRt,
    keep_engine,
    kept_record,
    read_plan,
    record_path,
    session_facts,
    this_machine,
)
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import (
    PRODUCT,
    cannot_build,
    cannot_run,
    installed_version,
    load_bindings,
)
from limpq_deploy.export.runtimes.tensorrt_rtx.build import compile_model
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import capabilities_named
from limpq_deploy.export.runtimes.tensorrt_rtx.needs import usual_for
from limpq_deploy.export.runtimes.tensorrt_rtx.record import describe
from limpq_deploy.export.runtimes.tensorrt_rtx.session import TensorRtRtxSession
from limpq_deploy.export.runtimes.tensorrt_rtx.sources import builder_digest

DEFAULT_BATCH = BatchRange(least=1, best=8, most=64)

NO_EFFECT = ("workspace_mib", "level", "builds")
"""Settings of `EngineOptions` that change nothing here: kernels are chosen on the GPU that runs the engine."""


class TensorRtRtx(TensorRt):
    """TensorRT-RTX 1.7. Its sessions have never run."""

    name = TENSORRT_RTX_GPU.name

    def __init__(
        self,
        options: EngineOptions | None = None,
        *,
        memory: str | None = None,
        report: Report = lambda done, total, note: None,
        fresh: bool = False,
    ) -> None:
        """As of `TensorRt`. Raises SettingError for settings without effect and for capabilities that one engine cannot
        be for."""
        options = options or EngineOptions()
        super().__init__(
            replace(options, batch=options.batch or DEFAULT_BATCH), memory=memory, report=report, fresh=fresh
        )
        defaults = EngineOptions()
        for name in NO_EFFECT:
            if getattr(self.options, name) != getattr(defaults, name):
                raise SettingError(
                    f"{name} is {getattr(self.options, name)}, which has no effect on {PRODUCT}: its kernels are "
                    "chosen on the GPU that runs the engine; leave it away"
                )
        if self.options.gpus is not None:
            capabilities_named(self.options.gpus)

    def with_options(self, options: EngineOptions) -> "TensorRtRtx":
        return TensorRtRtx(options, memory=self._memory_package, report=self._report, fresh=self._fresh)

    def unavailable(self) -> str | None:
        return cannot_run()

    def cannot_build(self) -> str | None:
        return cannot_build()

    def engine(self, path: Path, *, threads: int | None = None) -> CompiledEngine:
        return self.built(path)[0]

    def built(self, path: Path) -> tuple[CompiledEngine, Path]:
        """The engine of a model file and its plan's path, from the cache or built now. Needs no GPU.

        Raises MissingExtra without the compiler, or the errors of `load_model` and `compile_model`.
        """
        why = cannot_build()
        if why is not None:
            raise MissingExtra(why)
        key = hashlib.sha256(f"{builder_digest()} {sha256_of(path)} {to_json(self.options)}".encode()).hexdigest()[:32]
        plan = cache_folder() / self.name / (installed_version() or "unknown") / f"{key}.plan"
        if not self._fresh and (known := kept_record(CompiledEngine, plan)) is not None:
            return known, plan
        model = load_model(path)
        names = self.options.gpus or usual_for(model)
        compiled = compile_model(model, self.options, names, report=self._report)
        log = plan.with_suffix(".log").name
        record = describe(sha256_of(path), model, compiled, capabilities_named(names), log=log)
        lines = "".join(f"[{severity}] {plain(message, 4000)}\n" for severity, message in compiled.result.lines)
        write_text(plan.with_suffix(".log"), lines + visible(compiled.result.layers))
        keep_engine(record, plan, compiled.plan)
        return record, plan

    def load(self, path: Path, *, threads: int | None = None) -> TensorRtRtxSession:
        """Load a model file, or a ``.plan`` with its record beside it, on a GPU that the engine is for. Never run."""
        why = cannot_run()
        if why is not None:
            raise RuntimeUnavailable(why)
        kept = Path(path).suffix == ".plan"
        record, plan = (load_record(CompiledEngine, record_path(path)), path) if kept else self.built(path)
        assert record.plan is not None
        trt = load_bindings()
        here = this_machine(trt)
        if here.compute_capability not in record.plan.machine.compute_capability.split(", "):
            raise RuntimeUnavailable(
                f"the engine is for compute capability {record.plan.machine.compute_capability}, and {here.gpu} has "
                f"{here.compute_capability}; build it again with --gpus sm{here.compute_capability.replace('.', '')}"
            )
        data = read_plan(record, plan, _as_built_for(record.plan.machine, here))
        gpu = f"{here.gpu} driver {here.driver or 'unknown'}"
        kernels = hashlib.sha256(f"{record.plan.sha256} {gpu}".encode()).hexdigest()[:32]
        cache = cache_folder() / self.name / (installed_version() or "unknown") / f"{kernels}.kernels"
        return TensorRtRtxSession(trt, data, self._open(), here, session_facts(record.plan), cache)

    def _ready(self) -> tuple[ModuleType, Machine]:
        why = cannot_run()
        if why is not None:
            raise RuntimeUnavailable(why)
        trt = load_bindings()
        return trt, this_machine(trt)


def _as_built_for(built: Machine, here: Machine) -> Machine:
    """This machine in the words of an engine that is for several GPUs, one of which is here."""
    return Machine(
        gpu=built.gpu, compute_capability=built.compute_capability, tensorrt=here.tensorrt, system=here.system
    )
