"""TensorRT: engines built once per (model, settings, GPU, version), kept with their records, run without torch."""

import hashlib
import platform
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import onnx

from limpq_deploy.calibration.errors import CacheRefused, ModelError, RuntimeUnavailable
from limpq_deploy.calibration.files import cache_folder, keep, kept_bytes, sha256_of, write_bytes, write_text
from limpq_deploy.calibration.records import from_json, load_record, to_json, write_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.engine_record import Machine, OneBuild, Plan, PlanRefused, require_usable
from limpq_deploy.export.runtimes.base import Engine, NoGraph, WatchedSession
from limpq_deploy.export.runtimes.cuda.driver import ask_driver
from limpq_deploy.export.runtimes.cuda.memory import CudaMemory, open_memory
from limpq_deploy.export.runtimes.cuda.watch import driver_release
from limpq_deploy.export.runtimes.tensorrt.bindings import load_bindings, unavailable
from limpq_deploy.export.runtimes.tensorrt.build import BuildFailed, Built, build_plan
from limpq_deploy.export.runtimes.tensorrt.inspect import Inspection, layer_precision
from limpq_deploy.export.runtimes.tensorrt.log import BuildLog, Report
from limpq_deploy.export.runtimes.tensorrt.session import TensorRtSession
from limpq_deploy.export.runtimes.tensorrt.sources import builder_digest

T = TypeVar("T")

SHORT_RUNS = 50
"""Timed runs that choose between several builds."""


class TensorRt:
    """TensorRT 8.6 and later on the first GPU.

    An engine is built when it is first asked for and kept under ``LIMPQ_CACHE``; the same file with the same settings
    on the same machine is the same engine afterwards, so that parity, accuracy and latency are of one engine. Code
    that builds otherwise (`sources`) builds anew.
    """

    name = "tensorrt"

    def __init__(
        self,
        options: EngineOptions | None = None,
        *,
        memory: str | None = None,
        report: Report = lambda done, total, note: None,
        fresh: bool = False,
    ) -> None:
        """``memory``: "pycuda" or "cuda-python", None for the first that is installed; ``report`` gets a build's
        progress; ``fresh``: build even what is kept."""
        self.options = options or EngineOptions()
        self._memory_package, self._report, self._fresh = memory, report, fresh
        self._memory: CudaMemory | None = None

    def report_to(self, report: Report) -> None:
        self._report = report

    def with_options(self, options: EngineOptions) -> "TensorRt":
        return TensorRt(options, memory=self._memory_package, report=self._report, fresh=self._fresh)

    def unavailable(self) -> str | None:
        return unavailable()

    def machine(self) -> Machine:
        """The machine that engines are built for here. Raises RuntimeUnavailable where none can be."""
        return self._ready()[1]

    def engine(self, path: Path, *, threads: int | None = None) -> Engine:
        return self.built(path)[0]

    def load(self, path: Path, *, threads: int | None = None) -> TensorRtSession:
        """Load a model file (building its engine where there is none yet), or a ``.plan`` with its record beside it."""
        kept = Path(path).suffix == ".plan"
        record, plan = (load_record(Engine, record_path(path)), path) if kept else self.built(path)
        trt, machine = self._ready()
        data = read_plan(record, plan, machine)
        assert record.plan is not None
        return TensorRtSession(trt, data, self._open(), machine, session_facts(record.plan))

    def built(self, path: Path) -> tuple[Engine, Path]:
        """The engine of a model file and its plan's path, from the cache or built now.

        Raises RuntimeUnavailable, or the errors of `load_model` and `build_plan`.
        """
        trt, machine = self._ready()
        model = load_model(path)
        folder = cache_folder() / "tensorrt" / slug(machine)
        plan = folder / "plans" / f"{_key(path, self.options)}.plan"
        if not self._fresh and (known := kept_record(Engine, plan)) is not None:
            return known, plan
        log = BuildLog()
        try:
            record, best, layers = self._build(trt, machine, path, model, folder / "timing.cache", log)
        except BuildFailed as error:
            raise BuildFailed(f"{error} (the builder's log: {plan.with_suffix('.log')})") from error
        finally:
            write_text(plan.with_suffix(".log"), log.text())
        write_text(plan.with_suffix(".layers.json"), layers)
        keep_engine(record, plan, best)
        return record, plan

    def watch(self, path: Path, *, threads: int | None = None) -> WatchedSession:
        """Raises NoGraph: an engine keeps its inner codes to itself; `engine_parity` compares it layer by layer."""
        raise NoGraph("a TensorRT engine does not show its inner codes; compare it layer by layer instead")

    def optimized_graph(self, path: Path) -> onnx.ModelProto:
        """Raises NoGraph: an engine is no ONNX graph; its record has the layers."""
        raise NoGraph("a TensorRT engine is no ONNX graph; see the layers in its record")

    def _ready(self) -> tuple[ModuleType, Machine]:
        why = unavailable()
        if why is not None:
            raise RuntimeUnavailable(why)
        trt = load_bindings()
        return trt, this_machine(trt)

    def _open(self) -> CudaMemory:
        if self._memory is None:
            self._memory = open_memory(self._memory_package)
        return self._memory

    def _build(
        self, trt: ModuleType, machine: Machine, path: Path, model: onnx.ModelProto, cache: Path, log: BuildLog
    ) -> tuple[Engine, bytes, str]:
        """Build as often as asked for, time the builds against each other, and describe the fastest: record, plan,
        and what the inspector said."""
        memory = self._open()
        times = _kept_times(cache) if self.options.builds == 1 else None
        built: list[Built] = []
        lines: list[OneBuild] = []
        seen: list[Inspection] = []
        for _ in range(self.options.builds):
            one = build_plan(trt, model, self.options, log=log, report=self._report, timing_cache=times)
            session = TensorRtSession(trt, one.plan, memory, machine, {})
            built.append(one)
            seen.append(session.inspect())
            lines.append(
                OneBuild(
                    seconds=one.seconds,
                    plan_bytes=len(one.plan),
                    plan_sha256=hashlib.sha256(one.plan).hexdigest(),
                    layers=len(seen[-1].layers),
                    ms=short_timing(session, self.options) if self.options.builds > 1 else None,
                )
            )
            session.close()
        chosen = min(range(len(lines)), key=lambda index: lines[index].ms or 0.0)
        best, inspection = built[chosen], seen[chosen]
        if best.timing_cache is not None and (self.options.builds == 1 or not cache.exists()):
            keep(cache, best.timing_cache)  # several builds began without the times of others
        plan = Plan(
            sha256=lines[chosen].plan_sha256,
            size=len(best.plan),
            machine=machine,
            typing=best.typing,
            flags=best.flags,
            settings=best.settings,
            builds=tuple(lines),
            chosen=chosen,
            layers=inspection.layers,
            timing_cache_sha256=hashlib.sha256(best.timing_cache).hexdigest() if best.timing_cache else None,
            warnings=(*([inspection.problem] if inspection.problem else []), *log.of("WARNING")),
            log=f"{_key(path, self.options)}.log",
        )
        engine = Engine(
            model_sha256=sha256_of(path),
            runtime=self.name,
            version=machine.tensorrt,
            provider=machine.gpu,
            threads=None,
            options={"typing": best.typing, "flags": ", ".join(best.flags), **best.settings},
            layer_precision=layer_precision(model, inspection.layers),
            plan=plan,
        )
        return engine, best.plan, inspection.text


def read_plan(record: Engine, plan: Path, here: Machine) -> bytes:
    """A plan's bytes, once they are those of its record and fit this machine. Nothing of it is loaded before.

    Raises PlanRefused, which names the file.
    """
    if record.plan is None:
        raise ModelError(f"the record beside {plan} describes no plan; build the engine again")
    data = plan.read_bytes()
    try:
        require_usable(record.plan, data, here)
    except PlanRefused as error:
        raise PlanRefused(f"{plan}: {error} (remove the file for that)") from error
    return data


def _kept_times(cache: Path) -> bytes | None:
    """What earlier builds measured; None where there is nothing, or not what they left: it is measured again then."""
    try:
        return kept_bytes(cache)
    except CacheRefused:
        return None


def record_path(plan: Path) -> Path:
    """The engine's record beside its plan."""
    return plan.with_suffix(".engine.json")


def keep_engine(record: Any, plan: Path, data: bytes) -> None:
    """Write a plan into the cache, its record beside it, and what tells whether that is still the same."""
    write_record(record, record_path(plan))
    keep(_seal(plan), to_json(record).encode())
    write_bytes(plan, data)


def kept_record(cls: type[T], plan: Path) -> T | None:
    """The record of a plan that `keep_engine` wrote; None where there is none. Raises CacheRefused where it is another
    one by now; the plan itself is looked at by `read_plan`."""
    beside = record_path(plan)
    if not (plan.is_file() and beside.is_file()) or (kept := kept_bytes(_seal(plan))) is None:
        return None
    if beside.read_bytes() != kept:
        raise CacheRefused(f"{beside} in the cache is not what was kept there; remove it, so that it is made again")
    return from_json(cls, kept, str(beside))


def _seal(plan: Path) -> Path:
    return plan.with_suffix(".engine.kept")


def this_machine(trt: ModuleType) -> Machine:
    """What a plan built here is bound to."""
    driver = ask_driver()
    gpu = driver.gpus[0]
    return Machine(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        tensorrt=str(trt.__version__),
        system=f"{platform.system()} {platform.machine()}",
        driver=driver_release(),
        cuda=f"{driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda is not None else None,
        memory_mib=gpu.memory_mib,
    )


def slug(machine: Machine) -> str:
    """Folder name of a (GPU, TensorRT version)."""
    text = f"{machine.gpu} cc{machine.compute_capability} trt{machine.tensorrt}"
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in text)


def session_facts(plan: Plan) -> dict[str, Any]:
    """What a session says of its engine."""
    return {
        "options": {"typing": plan.typing, "flags": ", ".join(plan.flags), **plan.settings},
        "plan_sha256": plan.sha256,
        "builds": len(plan.builds),
        "spread_of_builds": plan.spread,
    }


def short_timing(session: TensorRtSession, options: EngineOptions) -> float:
    """Median milliseconds of `SHORT_RUNS` runs at the batch that the engine is built for."""
    shape = (session.input_shape[0] or options.sizes.best, *(size or 1 for size in session.input_shape[1:]))
    call = session.timed([np.random.default_rng(0).standard_normal(shape, np.float32)])
    samples = []
    for _ in range(SHORT_RUNS):
        call()
        samples.append(call.parts_ms()[call.main_part])
    return float(np.median(samples[SHORT_RUNS // 5 :]))


def _key(path: Path, options: EngineOptions) -> str:
    return hashlib.sha256(f"{builder_digest()} {sha256_of(path)} {to_json(options)}".encode()).hexdigest()[:32]
