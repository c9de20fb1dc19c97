"""TensorRT plans that are shipped, held against the record of their engine (`NAME.engine.json` beside `NAME.plan`).

A plan is executable code that only its own GPU and TensorRT can read, so nothing here opens one: what is known of it is
what the record says of the very bytes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from limpq_deploy.calibration.errors import LimpqError, SettingError
from limpq_deploy.calibration.files import cache_folder
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.engine_options import BatchRange
from limpq_deploy.export.records.engine_record import Machine
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.ship.triton.config import BACKENDS, PLANS, ConfigRefused

RECORD_SUFFIX = ".engine.json"


class PlanNotShipped(LimpqError):
    """A plan is not of the model that is shipped, or not for the GPU it is given for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedPlan:
    """``capability``: the compute capability that it was given for, empty for the only plan. ``record``: of its engine,
    None where none stands beside it, and then nothing is known of the plan."""

    capability: str
    path: Path
    record: Path | None = None
    machine: Machine | None = None
    batch: BatchRange | None = None

    @property
    def name(self) -> str:
        """The file in the version's folder."""
        return f"model_cc{self.capability.replace('.', '')}.plan" if self.capability else BACKENDS[PLANS[0]].file

    @property
    def files(self) -> dict[str, Path]:
        """Name in the version's folder -> file."""
        record = {Path(self.name).with_suffix(RECORD_SUFFIX).name: self.record} if self.record else {}
        return {self.name: self.path, **record}


def read_plans(plans: Mapping[str, Path], model_sha256: str) -> tuple[ShippedPlan, ...]:
    """What is known of plans by compute capability. Raises PlanNotShipped where a record speaks against its plan,
    RecordError for a damaged record."""
    return tuple(_read_plan(capability, path, model_sha256) for capability, path in sorted(plans.items()))


def _read_plan(capability: str, path: Path, model_sha256: str) -> ShippedPlan:
    record = path.with_suffix(RECORD_SUFFIX)
    if not record.is_file():
        return ShippedPlan(capability=capability, path=path)
    engine = load_record(Engine, record)
    if engine.plan is None:
        raise PlanNotShipped(f"{record} describes no plan but an engine of {engine.runtime}; build the plan again")
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
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
    return ShippedPlan(capability=capability, path=path, record=record, machine=machine, batch=batch)


def plan_of_build(build: Path) -> dict[str, Path]:
    """The plan that the engine stage of a build made, where this machine still keeps it; else nothing."""
    record = build / "engine.json"
    engine = load_record(Engine, record) if record.is_file() else None
    if engine is None or engine.plan is None:
        return {}
    for kept in sorted((cache_folder() / engine.runtime).glob(f"*/plans/*{RECORD_SUFFIX}")):
        found = load_record(Engine, kept).plan
        if found is not None and found.sha256 == engine.plan.sha256:
            return {"": kept.with_name(kept.name.removesuffix(RECORD_SUFFIX) + ".plan")}
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
