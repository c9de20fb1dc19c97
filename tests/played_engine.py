"""The record of an engine that ONNX Runtime plays for TensorRT, where there is no GPU."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.records.engine_record import EngineLayer, Machine, OneBuild, Plan
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.runtimes.tensorrt.inspect import compute_nodes, layer_precision

NOWHERE = Machine(gpu="none", compute_capability="0.0", tensorrt="0.0", system="test")


def played_engine(path: Path, precision: Callable[[str], str], *, builds: int = 1) -> Engine:
    """A made-up plan of this file. ``precision``: the inspector's word for a layer, by its name."""
    model, data = load_model(path), path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    layers = tuple(
        EngineLayer(name=node, kind="CaskConvolution", precision=precision(name), nodes=(node,))
        for name, node in compute_nodes(model).items()
    )
    return Engine(
        model_sha256=sha256,
        runtime="tensorrt",
        version="0.0",
        provider="none",
        threads=None,
        options={},
        layer_precision=layer_precision(model, layers),
        plan=Plan(
            sha256=sha256,
            size=len(data),
            machine=NOWHERE,
            typing="weak",
            flags=("INT8", "FP16"),
            settings={"batch": "1:1:64"},
            builds=tuple(
                OneBuild(seconds=1.0, plan_bytes=len(data), plan_sha256=sha256, layers=len(layers), ms=1.0 + one / 10)
                for one in range(builds)
            ),
            chosen=0,
            layers=layers,
        ),
    )
