"""From an ONNX file to a TensorRT plan: one builder for 8.6, 10 and 11."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import onnx

from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.export.graph.to_float16 import in_half
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.targets.tensorrt import TENSORRT
from limpq_deploy.export.records.tensorrt_versions import form_of
from limpq_deploy.export.runtimes.tensorrt.bindings import Typing, choose_typing, network_flags, set_precision
from limpq_deploy.export.runtimes.tensorrt.log import BuildLog, Report, make_logger, make_monitor, parser_errors

if TYPE_CHECKING:
    import tensorrt as trt

LOCAL_SOURCES = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
"""Kernels that TensorRT itself brings. cuBLAS and cuDNN, which older versions may ask besides, are other libraries, and
may be missing."""


PAIR = ("QuantizeLinear", "DequantizeLinear")
"""Operators that a file with integers has; it is left as it is."""


NO_KERNEL = "Could not find any implementation for node"
"""What TensorRT's builder says of a layer that none of its kernels takes."""


class BuildFailed(ModelError):
    """TensorRT builds no engine from a file; the sentence carries its own reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A plan as bytes, the timing cache as the build left it, and what was set. ``seconds``: of the builder alone."""

    plan: bytes
    timing_cache: bytes | None
    typing: Typing
    flags: tuple[str, ...]
    settings: dict[str, str]
    seconds: float


def _remedy(reason: str) -> str:
    """What to do about a builder that gives up. "Could not find any implementation for node X" is what 8.5 says of an
    int8 depthwise convolution with SiLU behind it (NVIDIA/TensorRT#3385), and 8.6 of one with an Add, which 10 builds
    (NVIDIA/Model-Optimizer#50); a workspace that is too small may end in the same words."""
    if NO_KERNEL in reason:
        return (
            "it has no kernel for that node, or none within the workspace: try a larger workspace or TensorRT 10, or "
            "leave the layer in float (16 bits in the policy)"
        )
    return "try a larger workspace, or --no-engine"


def _nothing_more(trt: ModuleType, config: "trt.IBuilderConfig") -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """What differs among builders of one family: ``name``, in sentences; what to do about a file that is refused
    (``export``) or of which no engine is built (``remedy``, given the reason); ``configure`` sets what only it knows,
    and returns it for the record."""

    name: str = "TensorRT"
    export: str = "export it for the target tensorrt"
    remedy: Callable[[str], str] = _remedy
    configure: Callable[[ModuleType, Any], dict[str, str]] = _nothing_more


TENSORRT_BUILDER = Compiler()


def build_plan(
    trt: ModuleType,
    model: onnx.ModelProto,
    options: EngineOptions,
    *,
    log: BuildLog,
    report: Report,
    timing_cache: bytes | None = None,
    compiler: Compiler = TENSORRT_BUILDER,
) -> Built:
    """Build once. ``timing_cache`` None: time every kernel anew. ``compiler``: of the family, if not TensorRT's own.

    Raises BuildFailed where the file is refused or nothing is built, SettingError where the version does not know a
    setting.
    """
    typed = form_of(model, TENSORRT).typed
    quantized = any(node.op_type in PAIR for node in model.graph.node)
    typing = choose_typing(trt, options, typed=typed)
    notes: dict[str, str] = {}
    if typing == "strong" and options.float_type == "float16" and not (typed or quantized):
        model, notes = _written_in_half(model, log)
    named_flags = network_flags(trt, typing)
    logger = make_logger(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network(sum(named_flags.values()))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        reasons = "; ".join(parser_errors(parser)) or log.last_error or "without a reason"
        raise BuildFailed(f"{compiler.name} {trt.__version__} refuses the model: {reasons}; {compiler.export}")
    config = builder.create_builder_config()
    flags = (*named_flags, *set_precision(trt, config, typing, options, quantized=quantized))
    settings = _settings(trt, config, options)
    settings |= _batch(builder, config, network, options) | notes | compiler.configure(trt, config)
    cache = config.create_timing_cache(timing_cache or b"") or config.create_timing_cache(b"")  # None for a damaged one
    if not config.set_timing_cache(cache, False):  # of another version or GPU: refused, and to be replaced
        config.set_timing_cache(config.create_timing_cache(b""), False)
    monitor = make_monitor(trt, report)
    if monitor is not None and hasattr(config, "progress_monitor"):
        config.progress_monitor = monitor
    start = time.perf_counter()
    memory = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    if monitor is not None and (stopped := getattr(monitor, "stopped_by", None)) is not None:
        raise stopped
    if memory is None:
        reason = log.last_error or "it gives no reason"
        raise BuildFailed(f"{compiler.name} {trt.__version__} builds no engine: {reason}; {compiler.remedy(reason)}")
    return Built(
        plan=bytes(memory),
        timing_cache=_cache_bytes(config),
        typing=typing,
        flags=flags,
        settings=settings,
        seconds=seconds,
    )


def _written_in_half(model: onnx.ModelProto, log: BuildLog) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A float model with its types in the file, and what the engine's record says of it."""
    found = in_half(model)
    kept = [f"{name} ({reason})" for name, reason in found.kept.items()]
    for one in kept:
        log.add("INFO", f"stays in float32: {one}")
    return found.model, {"floats": "float16", **({"kept_in_float32": "; ".join(kept)} if kept else {})}


def _settings(trt: ModuleType, config: "trt.IBuilderConfig", options: EngineOptions) -> dict[str, str]:
    """Set what does not depend on the network; the settings as they took effect."""
    config.builder_optimization_level = options.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector knows names only
    # Sharing of profiles among contexts: off in 8.6; on in 10, where asking for it draws a warning; always in 11.
    if hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806") and not config.get_preview_feature(
        trt.PreviewFeature.PROFILE_SHARING_0806
    ):
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * 2**20)
    sources = 1 << int(trt.TacticSource.EDGE_MASK_CONVOLUTIONS) | 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)
    if not config.set_tactic_sources(sources):
        raise SettingError(f"TensorRT {trt.__version__} does not take the tactic sources {', '.join(LOCAL_SOURCES)}")
    return {
        "builder_optimization_level": str(config.builder_optimization_level),
        "workspace_bytes": str(config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)),
        "tactic_sources": ", ".join(LOCAL_SOURCES),
    }


def _batch(
    builder: "trt.Builder", config: "trt.IBuilderConfig", network: "trt.INetworkDefinition", options: EngineOptions
) -> dict[str, str]:
    """An optimisation profile where the file leaves the batch free."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    for name, shape in shapes.items():
        if any(size < 1 for size in shape[1:]):
            raise BuildFailed(f"the model's input {name!r} has the shape {list(shape)}; only the batch may be free")
    free = {name: shape for name, shape in shapes.items() if shape[0] < 1}
    if not free:
        return {"batch": str(next(iter(shapes.values()))[0])}
    sizes = options.sizes
    profile = builder.create_optimization_profile()
    for name, shape in free.items():
        profile.set_shape(name, *((batch, *shape[1:]) for batch in (sizes.least, sizes.best, sizes.most)))
    config.add_optimization_profile(profile)
    return {"batch": str(sizes)}


def _cache_bytes(config: "trt.IBuilderConfig") -> bytes | None:
    cache = config.get_timing_cache()
    return None if cache is None else bytes(cache.serialize())
