"""The files that the GPU benchmark runs: made once, where torch and ONNX Runtime are; measured where neither is.

DIR/MODEL/float.onnx (with the places of its quantizers), placement.json, edges.json, int8.onnx, mixed.onnx (INT8 and
FP16 layers), and for these two a reference: images, and what the file as written makes of them at each quantizer.
Weights are random: how long a model takes does not depend on them, and parity is of the same file on both sides.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.markers import MARKERS_KEY, markers_text, with_markers
from limpq_deploy.export.graph.split_at_quantizers import Cut, cut_model
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import TENSORRT
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS
from limpq_deploy.export.reference.engine_parity import Reference, references
from limpq_deploy.export.timing.profile import mixed_policies
from limpq_deploy.export.timing.timing_graph import timing_graph

FLOAT_FILE, PLACEMENT, EDGES = "float.onnx", "placement.json", "edges.json"
INTEGER, HALF = (8, 8), (16, 16)
PAIRS = (INTEGER, HALF)
"""What TensorRT runs natively."""
REFERENCE_IMAGES = 2


def prepare(name: str, folder: Path, *, tensorrt: str = "8.6", seed: int = 0) -> None:
    """Write all files of a model for a version of TensorRT into a folder; needs torch and ONNX Runtime."""
    import torch

    from limpq_deploy.model.edges import layer_edges
    from limpq_deploy.model.float_template import float_template
    from limpq_deploy.model.layers import trace
    from limpq_deploy.model.place import place
    from limpq_deploy.model.zoo import create_model

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model, info = create_model(name)
    assert info.preprocess is not None
    traced = trace(model.eval(), info.preprocess.shape)
    placement = place(traced, TENSORRT, model=name)
    template = float_template(traced, placement, TENSORRT_FORMS[tensorrt].opset)
    plain = strip_markers(template)
    onnx.helper.set_model_props(plain, {MARKERS_KEY: markers_text(template), "limpq.model": name})
    onnx.save(plain, folder / FLOAT_FILE)
    write_record(placement, folder / PLACEMENT)
    edges = [[edge.producer, edge.consumer, edge.elements] for edge in layer_edges(traced)]
    (folder / EDGES).write_text(json.dumps(edges))
    images = np.random.default_rng(seed).standard_normal((REFERENCE_IMAGES, *placement.input_shape)).astype(np.float32)
    for kind, policy in policies(placement).items():
        path = folder / f"{kind}.onnx"
        onnx.save(timing_graph(with_markers(plain), placement, policy, name=kind), path)
        [one] = references(path, [images])
        save_reference(path, one)


def policies(placement: Placement) -> dict[str, dict[str, BitPair]]:
    """The quantized models: INT8 everywhere, and INT8 and FP16 in runs of layers."""
    [mixed] = mixed_policies(placement, PAIRS, 1, seed=0).values()
    return {"int8": {layer.name: INTEGER for layer in placement.searched}, "mixed": mixed}


def save_reference(path: Path, reference: Reference) -> None:
    """Images, logits and codes (as int16) beside a model file."""
    model = load_model(path)
    _, cuts = cut_model(model)
    logits = reference.ends[model.graph.output[0].name]
    codes = {f"codes {cut.tensor} {cut.end}": cut.codes(reference.ends[cut.end]) for cut in cuts}
    arrays: dict[str, Any] = {"images": reference.feeds[model.graph.input[0].name], "logits": logits, **codes}
    np.savez_compressed(path.with_suffix(".reference.npz"), **arrays)


def load_reference(path: Path) -> tuple[onnx.ModelProto, tuple[Cut, ...], Reference]:
    """The cut of a model file, and its reference."""
    model = load_model(path)
    cut, cuts = cut_model(model)
    with np.load(path.with_suffix(".reference.npz"), allow_pickle=False) as stored:
        images, logits = stored["images"], stored["logits"]
        values = {
            one.end: stored[f"codes {one.tensor} {one.end}"].astype(np.float32) * np.float32(one.scale) for one in cuts
        }
    return (
        cut,
        cuts,
        Reference(
            feeds={model.graph.input[0].name: images, **{one.start: values[one.end] for one in cuts}},
            ends={model.graph.output[0].name: logits, **values},
        ),
    )


def load_edges(folder: Path) -> list[tuple[str, str, int]]:
    return [(producer, consumer, elements) for producer, consumer, elements in json.loads((folder / EDGES).read_text())]


def load_placement(folder: Path) -> Placement:
    return load_record(Placement, folder / PLACEMENT)


def is_prepared(folder: Path) -> bool:
    """Whether a model's folder holds everything that is measured."""
    names = (
        FLOAT_FILE,
        PLACEMENT,
        EDGES,
        *(f"{kind}.{end}" for kind in ("int8", "mixed") for end in ("onnx", "reference.npz")),
    )
    return all((folder / name).is_file() for name in names)
