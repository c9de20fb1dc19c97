"""NVIDIA's compiler's word on a file: whether it accepts it, and what it makes of it. Nothing is run, nothing kept."""

from dataclasses import dataclass

import onnx

from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.runtimes.base import CODED, FLOAT8, INTEGER, CompiledEngine, keeps_plan
from limpq_deploy.export.runtimes.tensorrt.build import BuildFailed
from limpq_deploy.export.runtimes.tensorrt.inspect import compute_nodes, planned_precision
from limpq_deploy.export.runtimes.tensorrt.log import Report
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import cannot_build, compiler_name
from limpq_deploy.export.runtimes.tensorrt_rtx.build import compile_model
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import capabilities_named
from limpq_deploy.export.runtimes.tensorrt_rtx.needs import usual_for
from limpq_deploy.export.runtimes.tensorrt_rtx.record import describe
from limpq_deploy.export.runtimes.tensorrt_rtx.runtime import DEFAULT_BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerWord:
    """``accepted``: whether an engine was built; None where the compiler is not here. ``detail``: a sentence, with the
    reason where there is no engine. ``planned``: Conv and Gemm layers that the file asks integers or FP8 of;
    ``as_floats``: those of them that got other types. The other figures: as in `CompiledEngine`."""

    accepted: bool | None
    detail: str
    compiler: str = ""
    capabilities: tuple[str, ...] = ()
    kernels: int | None = None
    layers: int | None = None
    integer_layers: int | None = None
    fp8_layers: int | None = None
    planned: int | None = None
    as_floats: tuple[str, ...] = ()
    moved_bytes: dict[str, int | None] | None = None
    weight_bytes: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def as_planned(self) -> bool:
        """Accepted, and every layer that is planned in integers or FP8 is."""
        return self.accepted is True and not self.as_floats


def compiler_word(
    model: onnx.ModelProto,
    *,
    gpus: tuple[str, ...] | None = None,
    of: str | None = None,
    batch: BatchRange | None = None,
    report: Report = lambda done, total, note: None,
) -> CompilerWord:
    """Ask the compiler, in a process of its own; some seconds. ``of``: the compiler that the file is for, such as
    "TensorRT 10", where it is another. ``gpus``: None for all of the usual ones that admit the file's formats.
    ``batch``: of the engine; None: `DEFAULT_BATCH`. Raises SettingError for capabilities that one engine cannot be
    for."""
    why = cannot_build()
    if why is not None:
        return CompilerWord(accepted=None, detail=why)
    gpus = gpus or usual_for(model)
    chosen = capabilities_named(gpus)
    name = compiler_name()
    try:
        compiled = compile_model(model, EngineOptions(batch=batch or DEFAULT_BATCH), gpus, report=report)
    except BuildFailed as error:
        return CompilerWord(accepted=False, detail=str(error), compiler=name, capabilities=gpus)
    engine = describe("", model, compiled, chosen)
    assert engine.plan is not None
    asked = {layer: one for layer, one in planned_precision(model).items() if one in CODED}
    other = f", and not the compiler of your {of}" if of is not None else ""
    return CompilerWord(
        accepted=True,
        detail=f"NVIDIA's compiler ({name}) accepts it: {figures(model, engine)}; not run{other}",
        compiler=name,
        capabilities=gpus,
        kernels=engine.kernels,
        layers=engine.layers,
        integer_layers=engine.integer_layers,
        fp8_layers=engine.fp8_layers,
        planned=len(asked),
        as_floats=tuple(layer for layer, plan in asked.items() if not keeps_plan(plan, engine.layer_precision[layer])),
        moved_bytes=engine.moved_bytes,
        weight_bytes=engine.weight_bytes,
        warnings=engine.plan.warnings,
    )


def figures(model: onnx.ModelProto, engine: CompiledEngine) -> str:
    """Such as "41 kernels, 20 of 20 convolutions and 1 of 1 Gemms in int8"; those in FP8 are named behind them."""
    operators = {node.name: node.op_type for node in model.graph.node}
    kinds = {layer: operators[node] for layer, node in compute_nodes(model).items()}
    parts = []
    for operator, words in (("Conv", "convolutions"), ("Gemm", "Gemms")):
        found = [engine.layer_precision[layer] in INTEGER for layer, kind in kinds.items() if kind == operator]
        if found:
            parts.append(f"{sum(found)} of {len(found)} {words}")
    in_fp8 = sum(precision == FLOAT8 for precision in engine.layer_precision.values())
    said = f"{engine.kernels} kernels, {' and '.join(parts) or 'no layer'} in int8"
    return f"{said}, {in_fp8} of {len(kinds)} layers in FP8" if in_fp8 else said
