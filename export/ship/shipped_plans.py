"""TensorRT plans that are shipped, held against the record of their engine (`NAME.engine.json` beside `NAME.plan`).

A plan is executable code that only its own GPU and TensorRT can read, so nothing here opens one: what is known of it is
how it begins, and what the record says of the very bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from limpq_deploy.calibration.errors import LimpqError, SettingError
from limpq_deploy.calibration.files import cache_folder
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.engine_options import BatchRange
from limpq_deploy.export.records.engine_record import Machine
from limpq_deploy.export.records.targets import RUNTIMES, RuntimeSpec, runtime_record
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.runtimes.tensorrt.runtime import kept_record
from limpq_deploy.export.ship.triton.config import BACKENDS, PLANS
from limpq_deploy.export.ship.triton.served_io import ConfigRefused

ENGINE, RECORD_SUFFIX = "engine.json", ".engine.json"
MOST_BEGINS = 4
"""Bytes of a plan that are looked at."""

PLAN, PLAN_RECORD = "model.plan", f"model{RECORD_SUFFIX}"
"""The plan in a bundle, where its build kept one, and its record."""


class PlanNotShipped(LimpqError):
    """A plan is not of the model that is shipped, or not for the GPU it is given for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedPlan:
    """``capability``: the compute capability that it was given for, empty for the only plan. ``record``: of its engine,
    None where none stands beside it, and then nothing is known of the plan. ``doubts``: why it may be no plan of this
    build, in sentences without their subject."""

    capability: str
    path: Path
    record: Path | None = None
    machine: Machine | None = None
    batch: BatchRange | None = None
    doubts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file in the version's folder."""
        return f"model_cc{self.capability.replace('.', '')}.plan" if self.capability else BACKENDS[PLANS[0]].file

    @property
    def files(self) -> dict[str, Path]:
        """Name in the version's folder -> file."""
        record = {Path(self.name).with_suffix(RECORD_SUFFIX).name: self.record} if self.record else {}
        return {self.name: self.path, **record}


def read_plans(
    plans: Mapping[str, Path], model_sha256: str, *, backend: str, target: str, built: Engine | None = None
) -> tuple[ShippedPlan, ...]:
    """What is known of plans by compute capability, and what speaks against them. ``backend``: what serves them, which
    has the name of the runtime whose plans it loads; ``target``: of the build; ``built``: its engine, None where it
    made none. Raises PlanNotShipped where a record is of other bytes, of another model or of another GPU than the plan
    is given for, RecordError for a damaged record."""
    found = tuple(
        _read_plan(capability, path, model_sha256, backend, target, built) for capability, path in sorted(plans.items())
    )
    versions = {plan.machine.tensorrt for plan in found if plan.machine is not None}
    if len(versions) < 2:
        return found
    beside = (
        f"stands beside plans of other versions of TensorRT ({', '.join(sorted(versions))}), of which a server has one"
    )
    return tuple(replace(plan, doubts=(*plan.doubts, beside)) for plan in found)


def require_plans(plans: Iterable[ShippedPlan], force: bool) -> str:
    """What speaks against the plans, where ``force`` ships them all the same; empty where nothing does. Raises
    PlanNotShipped without it."""
    doubts = "; ".join(f"{plan.path.name} {doubt}" for plan in plans for doubt in plan.doubts)
    if doubts and not force:
        raise PlanNotShipped(
            f"{doubts}; expected a plan as this build's engine stage (or `limpq-deploy finish`) makes it, with its "
            "record beside it: build it there, or ship it with --force, which the manifest records"
        )
    return f"{doubts}; shipped with --force" if doubts else ""


def _read_plan(
    capability: str, path: Path, model_sha256: str, backend: str, target: str, built: Engine | None
) -> ShippedPlan:
    taken = runtime_record(backend)
    with path.open("rb") as stream:
        begins = stream.read(MOST_BEGINS)
        stream.seek(0)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    record = path.with_suffix(RECORD_SUFFIX)
    if not record.is_file():
        doubts = (
            *_begins_otherwise(begins, taken),
            f"has no record ({record.name}) beside it, so nothing is known of it",
        )
        return ShippedPlan(capability=capability, path=path, doubts=doubts)
    engine = load_record(Engine, record)
    if engine.plan is None:
        raise PlanNotShipped(f"{record} describes no plan but an engine of {engine.runtime}; build the plan again")
    if sha256 != engine.plan.sha256:
        raise PlanNotShipped(f"{path} is not the plan of {record.name}: its SHA-256 is another; build it again")
    if engine.model_sha256 != model_sha256:
        raise PlanNotShipped(f"{path} was built of another model.onnx than the bundle's; build it of that one")
    machine = engine.plan.machine
    if capability not in ("", machine.compute_capability):
        raise PlanNotShipped(
            f"{path} was built for compute capability {machine.compute_capability} ({machine.gpu}) and is given for "
            f"{capability}; build one there, or give --plan {machine.compute_capability}={path}"
        )
    try:
        batch = BatchRange.parse(engine.plan.settings.get("batch", ""))
    except SettingError as error:
        raise PlanNotShipped(f"{record} does not say which batches the plan takes; build the plan again") from error
    doubts = (
        *_begins_otherwise(begins, taken),
        *_of_another_build(engine, machine, capability, target, built),
    )
    return ShippedPlan(capability=capability, path=path, record=record, machine=machine, batch=batch, doubts=doubts)


def _begins_otherwise(begins: bytes, taken: RuntimeSpec) -> Iterator[str]:
    """Why bytes do not begin as the plans of a server's runtime do."""
    if begins.startswith(taken.begins.encode()):
        return
    other = next((one for one in RUNTIMES.values() if one.begins and begins.startswith(one.begins.encode())), None)
    if other is not None:
        yield f"is an engine of {other.title}, which Triton's {taken.name} backend does not load"
    else:
        yield f"does not begin as {taken.title}'s plans do ({taken.begins!r}, found {begins!r})"


def _of_another_build(
    engine: Engine, machine: Machine, capability: str, target: str, built: Engine | None
) -> Iterator[str]:
    """What a plan's record says that the build does not. A plan that is given for a compute capability is another
    GPU's by intent."""
    if engine.runtime != target:
        yield f"is an engine of {engine.runtime}, and the build is for {target}"
    own = built.plan.machine if built is not None and built.plan is not None else None
    if own is None:
        return
    if machine.tensorrt != own.tensorrt:
        yield f"was built by TensorRT {machine.tensorrt}, and the build's engine by {own.tensorrt}"
    if not capability and machine.gpu != own.gpu:
        wanted = f"--plan {machine.compute_capability}=FILE for a GPU of its own"
        yield f"was built on {machine.gpu}, and the build's engine on {own.gpu} ({wanted})"


def engine_of_build(build: Path, bundle: Path) -> Engine | None:
    """The engine that a build measured, of its folder or, where only that is at hand, of its bundle; else None."""
    for record in (build / ENGINE, bundle / PLAN_RECORD):
        if record.is_file():
            return load_record(Engine, record)
    return None


def plan_of_build(built: Engine | None, bundle: Path) -> dict[str, Path]:
    """The plan of a build's engine: in its bundle, or where this machine still keeps it; else nothing."""
    if (bundle / PLAN).is_file():
        return {"": bundle / PLAN}
    if built is None or built.plan is None:
        return {}
    for plan in sorted((cache_folder() / built.runtime).glob("*/plans/*.plan")):
        found = kept_record(Engine, plan)
        if found is not None and found.plan is not None and found.plan.sha256 == built.plan.sha256:
            return {"": plan}
    return {}


def check_batches(max_batch_size: int, plans: tuple[ShippedPlan, ...]) -> None:
    """Raise ConfigRefused where a request that the configuration allows is one that an engine refuses."""
    for plan in plans:
        if plan.batch is None:
            continue
        if max_batch_size > plan.batch.most:
            raise ConfigRefused(
                "max_batch_size",
                f"is {max_batch_size}, and {plan.path.name} takes batches {plan.batch}",
                f"take --max-batch {plan.batch.most}, or build the engine for larger batches",
            )
        if plan.batch.least > 1:
            raise ConfigRefused(
                "max_batch_size",
                f"lets single images in, and {plan.path.name} takes batches {plan.batch}",
                "build the engine for batches from 1 on",
            )
