"""Models of `latency_loop.py` and `cpu_latency.py`: their templates, placements and edges, with fresh weights. How long
a graph takes does not depend on them."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.ranges import lsq_mean_abs
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.edges import layer_edges
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place
from limpq_deploy.model.zoo import create_model
from limpq_deploy.policy.indicators import Indicators, LayerEdge, LayerIndicators, PinnedLayer

SIZE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A traced model: ``float_file`` is its exported float graph, ``indicators`` the paper's first scale of each
    layer's weight at 8 bits, which stands for its importance."""

    name: str
    template: onnx.ModelProto
    placement: Placement
    edges: tuple[LayerEdge, ...]
    indicators: Indicators
    float_file: Path

    @property
    def triples(self) -> list[tuple[str, str, int]]:
        return [(edge.producer, edge.consumer, edge.elements) for edge in self.edges]


def prepare(name: str, folder: Path, size: int = SIZE) -> Model:
    """Trace and export a torchvision model, fresh weights from seed 0, for images of ``size`` pixels."""
    torch.manual_seed(0)
    model, _ = create_model(name)
    traced = trace(model.eval(), (3, size, size))
    placement = place(traced, ONNXRUNTIME, model=name)
    edges = layer_edges(traced)
    scales = {layer.name: _first_scale(traced.graph_module.get_submodule(layer.name)) for layer in placement.layers}
    template = float_template(traced, placement)
    float_file = folder / f"{name.replace('/', '-')}.float.onnx"
    onnx.save(strip_markers(template), float_file)
    return Model(
        name=name,
        template=template,
        placement=placement,
        edges=edges,
        indicators=Indicators(
            model=name,
            bits=(8, 32),
            layers=tuple(
                LayerIndicators(
                    name=layer.name,
                    macs=layer.macs,
                    num_weights=layer.num_weights,
                    weight=(scales[layer.name], 0.0),
                    act=(1e-6, 0.0),
                    act_group=placement.act_group(layer),
                    pairs=((8, 8), (32, 32)),
                    kind=layer.kind,
                )
                for layer in placement.searched
            ),
            pinned=tuple(
                PinnedLayer(name=one.name, macs=one.macs, num_weights=one.num_weights, weight_bits=8, act_bits=8)
                for one in placement.pinned
            ),
            edges=edges,
        ),
        float_file=float_file,
    )


def machine() -> dict[str, Any]:
    """Where this ran, for the committed results."""
    found = read_environment()
    return {
        "cpu": found.cpu,
        "instruction_sets": list(found.instruction_sets),
        "cpus": found.usable_cpus,
        "load": list(os.getloadavg()),
        "python": platform.python_version(),
        "libraries": found.libraries,
    }


def _first_scale(module: nn.Module) -> float:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return float(lsq_mean_abs(weight.detach(), QuantGrid(bits=8, signed=True)))
