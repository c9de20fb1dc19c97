"""The record of a compiled engine: kernels, bytes moved, precision of every layer, from the compiler's own list."""

import hashlib
import platform

import onnx

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.export.records.engine_record import EngineLayer, Machine, OneBuild, Plan
from limpq_deploy.export.records.targets.tensorrt_rtx import TENSORRT_RTX_GPU
from limpq_deploy.export.runtimes.base import FLOAT8, INTEGER, CompiledEngine
from limpq_deploy.export.runtimes.tensorrt.inspect import engine_layers, layer_precision
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import compiler_name
from limpq_deploy.export.runtimes.tensorrt_rtx.build import Compiled
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import Capability
from limpq_deploy.export.runtimes.tensorrt_rtx.inspect import parse_layers, weight_bytes
from limpq_deploy.export.runtimes.tensorrt_rtx.order import BATCHES
from limpq_deploy.export.runtimes.tensorrt_rtx.traffic import kernels, moved_bytes


def describe(
    model_sha256: str,
    model: onnx.ModelProto,
    compiled: Compiled,
    capabilities: tuple[Capability, ...],
    *,
    log: str | None = None,
) -> CompiledEngine:
    """What the compiler made of a model, from its own words. ``log``: file name of its whole log, if that is kept."""
    result = compiled.result
    warnings = list(dict.fromkeys(message for severity, message in result.lines if severity == "WARNING"))
    settings = result.settings or {}
    layers: tuple[EngineLayer, ...] = ()
    count, moved, by_type = 0, dict[str, int | None](), dict[str, dict[str, int]]()
    try:
        entries = parse_layers(result.layers)
        layers, count = engine_layers(entries), kernels(entries)
        tuned = {int(batch): text for batch, text in (result.tuned or {}).items()}
        for batch in sorted({*BATCHES, *tuned}):
            text = tuned.get(batch)
            types = moved_bytes(parse_layers(text), batch) if text is not None else {}
            by_type[f"batch_{batch}"] = types
            moved[f"batch_{batch}"] = sum(types.values()) if text is not None else None
    except RecordError as error:  # an unknown form of the list must cost no engine
        warnings.insert(0, str(error))
    precision = layer_precision(model, layers)
    digest = hashlib.sha256(compiled.plan).hexdigest()
    one = OneBuild(seconds=result.seconds, plan_bytes=len(compiled.plan), plan_sha256=digest, layers=len(layers))
    names = tuple(one.name for one in capabilities)
    return CompiledEngine(
        model_sha256=model_sha256,
        runtime=TENSORRT_RTX_GPU.name,
        version=result.version,
        provider=", ".join(names),
        threads=None,
        options={"typing": result.typing, "flags": ", ".join(result.flags), **settings},
        layer_precision=precision,
        plan=Plan(
            sha256=digest,
            size=len(compiled.plan),
            machine=_target_machine(capabilities, result.version),
            typing=result.typing,
            flags=result.flags,
            settings=settings,
            builds=(one,),
            chosen=0,
            layers=layers,
            warnings=tuple(warnings),
            log=log,
        ),
        compiler=compiler_name(),
        capabilities=names,
        kernels=count,
        integer_layers=sum(found in INTEGER for found in precision.values()),
        fp8_layers=sum(found == FLOAT8 for found in precision.values()),
        layers=len(precision),
        moved_bytes=moved,
        moved_by_type=by_type,
        weight_bytes=weight_bytes([message for _, message in result.lines]),
    )


def _target_machine(capabilities: tuple[Capability, ...], version: str) -> Machine:
    """What an engine for these capabilities is bound to."""
    return Machine(
        gpu=f"any GPU of {', '.join(one.name for one in capabilities)}",
        compute_capability=", ".join(one.number for one in capabilities),
        tensorrt=version,
        system=f"{platform.system()} {platform.machine()}",
    )
