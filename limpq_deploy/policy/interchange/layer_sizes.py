"""What each layer of a model computes and stores, without any importance: the second source beside a foreign file."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from limpq_deploy.calibration.json_text import load_json
from limpq_deploy.calibration.records import load_record
from limpq_deploy.policy.indicators import Indicators, PinnedLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    """One searched layer: ``macs`` for one image, ``num_weights`` without bias."""

    name: str
    macs: int
    num_weights: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapesFile:
    """A file that somebody writes by hand or from another tool: ``{"format": "limpq.shapes/1", "model", "layers":
    [{"name", "macs", "num_weights"}], "pinned": [{..., "weight_bits", "act_bits"}]}``."""

    model: str
    layers: tuple[LayerSize, ...]
    pinned: tuple[PinnedLayer, ...] = ()
    source: Any = None
    format: Literal["limpq.shapes/1"] = field(default="limpq.shapes/1")


Shapes = Indicators | ShapesFile


def load_shapes(path: Path) -> Shapes:
    """An indicators file or a ``limpq.shapes/1`` file; ``source`` names it beside what it says of itself. Raises
    RecordError."""
    record = load_record(ShapesFile, path) if _is_shapes(path) else load_record(Indicators, path)
    return replace(record, source={"file": path.name, "source": record.source})


def _is_shapes(path: Path) -> bool:
    found = load_json(path, "a limpq.indicators/1 or limpq.shapes/1 file")
    return isinstance(found, dict) and found.get("format") == ShapesFile.__dataclass_fields__["format"].default
