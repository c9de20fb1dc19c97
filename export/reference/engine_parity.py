"""An engine against its file, stretch by stretch: both are fed the same codes at every quantizer.

TensorRT scales and adds biases in float, in an order of its own, so two executions differ where a value lies at a tie,
and end to end such steps are carried on and grow. Layer by layer they are single steps, few, and bounded; a lost Clip,
a wrong scale or a layer in a narrower type are not. The file as written is executed by ONNX Runtime, every optimisation
off; the engine is built from the same file, cut (`split_at_quantizers`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.split_at_quantizers import Cut, cut_model, with_ends
from limpq_deploy.export.reference.parity import ClipCheck, LostBound, ParityReport, TensorParity, compare_codes, merged

Feeds = dict[str, NDArray[np.float32]]
RunFeeds = Callable[[Mapping[str, NDArray[np.float32]]], Mapping[str, NDArray[np.float32]]]
"""Runs a model of several inputs: inputs by name -> results by name."""

SATURATING = 1000.0
"""Factor that carries images far beyond every grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The file as written on one batch: ``feeds`` of the cut file, and its ``ends`` by name, logits among them."""

    feeds: Feeds
    ends: Feeds


def write_cut(path: Path, folder: Path) -> tuple[Path, tuple[Cut, ...]]:
    """Cut a Q/DQ file and write it into a folder."""
    model, cuts = cut_model(load_model(path))
    written = folder / f"{path.stem}.cut.onnx"
    written.write_bytes(model.SerializeToString(deterministic=True))
    return written, cuts


def references(path: Path, batches: Iterable[NDArray[np.float32]]) -> Iterator[Reference]:
    """The file as written on batches of images NCHW, by ONNX Runtime with every optimisation off."""
    from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written

    model, cuts = with_ends(load_model(path))
    session = open_as_written(model, [])
    image, results = model.graph.input[0].name, [output.name for output in model.graph.output]
    for images in batches:
        values = session.run_feeds({image: images})
        yield Reference(
            feeds={image: images, **{cut.start: values[cut.end] for cut in cuts}},
            ends={name: values[name] for name in results},
        )


def compare_engine(
    path: Path,
    cuts: tuple[Cut, ...],
    known: Iterable[Reference],
    run: RunFeeds,
    environment: Mapping[str, Any],
) -> ParityReport:
    """Feed the cut engine the file's own codes and compare its ends, code by code, and its logits.

    ``run``: the engine of the cut file.
    """
    model = load_model(path)
    logits = model.graph.output[0].name
    parts: list[TensorParity] = []
    images, difference, equal = 0, 0.0, True
    for one in known:
        found = run(one.feeds)
        images += len(one.ends[logits])
        parts += [compare_codes(cut.tensor, cut.codes(one.ends[cut.end]), cut.codes(found[cut.end])) for cut in cuts]
        difference = max(difference, float(np.abs(one.ends[logits] - found[logits]).max()))
        equal = equal and np.array_equal(one.ends[logits], found[logits])
    return ParityReport(
        model_sha256=sha256_of(path),
        images=images,
        environment=dict(environment),
        tensors=merged(parts),
        unwatched={},
        logits_equal=equal,
        logits_max_difference=difference,
        mode="layer by layer",
        notes=(
            "Engine and file were fed the same codes at every quantizer; compared is what each stretch makes of them.",
        ),
    )


def check_clips(model: onnx.ModelProto, cuts: tuple[Cut, ...], run: RunFeeds, *, seed: int = 0) -> ClipCheck:
    """Drive every quantizer of a cut engine beyond its grid, and find those that let codes out of it.

    Images are far outside their grid; starts take the ends of theirs, at random, all high, and all low. An upper bound
    was lost this way in TensorRT 10.12 (NVIDIA/TensorRT#4606).
    """
    generator = np.random.default_rng(seed)
    image = model.graph.input[0]
    shape = (1, *(size.dim_value for size in image.type.tensor_type.shape.dim[1:]))
    least = {cut.tensor: cut.high for cut in cuts}
    most = {cut.tensor: cut.low for cut in cuts}
    for ends in (("low", "high"), ("high",), ("low",)):
        feeds: Feeds = {image.name: (SATURATING * generator.standard_normal(shape)).astype(np.float32)}
        for cut in cuts:
            reals = np.asarray([cut.real(getattr(cut, end)) for end in ends], np.float32)
            feeds[cut.start] = generator.choice(reals, size=(1, *cut.shape)).astype(np.float32)
        found = run(feeds)
        for cut in cuts:
            codes = cut.codes(found[cut.end])
            least[cut.tensor] = min(least[cut.tensor], int(codes.min()))
            most[cut.tensor] = max(most[cut.tensor], int(codes.max()))
    return ClipCheck(
        lost=tuple(
            LostBound(tensor=cut.tensor, least=least[cut.tensor], most=most[cut.tensor], low=cut.low, high=cut.high)
            for cut in cuts
            if least[cut.tensor] < cut.low or most[cut.tensor] > cut.high
        ),
        not_driven=tuple(cut.tensor for cut in cuts if most[cut.tensor] < cut.high),
    )
