"""Time of every layer of a file in an engine, from the engine's own profiler."""

from pathlib import Path

import numpy as np

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.runtimes.base import DeviceTimed, Runtime
from limpq_deploy.export.runtimes.onnxruntime.profile import NodeTime
from limpq_deploy.export.timing.engine_audit import layer_groups


def engine_layer_times(runtime: Runtime, path: Path, *, batch: int = 1, calls: int = 30) -> dict[str, NodeTime]:
    """Medians and quartiles by layer of the file; layers that the engine fused share their kernel's time by their
    number. What belongs to no layer (reformats, pools) is left out.

    Raises ModelError where the runtime profiles no layers, or none that is a layer of the file.
    """
    plan, session = runtime.engine(path).plan, runtime.load(path)
    shape = (batch, *(size or 1 for size in session.input_shape[1:]))
    if plan is None or not isinstance(session, DeviceTimed):
        raise ModelError(f"the runtime {runtime.name} profiles no layers of an engine; choose one that builds engines")
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    samples = session.layer_times(images, calls)
    found: dict[str, NodeTime] = {}
    for kernel, layers in layer_groups(load_model(path), plan.layers):
        if kernel.name in samples:
            low, middle, high = np.percentile(samples[kernel.name], (25, 50, 75)) / len(layers)
            for layer in layers:
                found[layer] = NodeTime(
                    name=layer, op=kernel.kind, ms=float(middle), low_ms=float(low), high_ms=float(high), calls=calls
                )
    if not found:
        raise ModelError("the engine's profile names no layer of the file; profile another one")
    return found
