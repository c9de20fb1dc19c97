"""The two sides of a parity stage: what an exported file should give, and what the runtime makes of it.

Where a runtime computes in integers throughout, an integer reference is set against it end to end, bit by bit. Where it
scales in float (TensorRT), its engine is fed the file's own codes at each quantizer.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.runtime_taps import code_tensors
from limpq_deploy.export.graph.split_at_quantizers import Cut, with_ends
from limpq_deploy.export.records.targets import TARGETS
from limpq_deploy.export.records.tensorrt_versions import form_named
from limpq_deploy.export.reference.engine_parity import RunFeeds, check_clips, compare_engine, references, write_cut
from limpq_deploy.export.reference.executor import IntegerReference
from limpq_deploy.export.reference.float_execution import islands_on, on_runtime
from limpq_deploy.export.reference.half_sums import IMAGES, codes_in_numpy
from limpq_deploy.export.reference.parity import Fed, ParityReport, TensorParity, compare_codes, compare_runtime
from limpq_deploy.export.runtimes.base import Runtime, Session, every_output
from limpq_deploy.progress import counted

Batches = Sequence[NDArray[np.float32]]

FLOAT_IMAGES = 2
"""Images that NumPy executes of a file whose weights alone are integers."""

MOST_ELEMENTS = 2**26
"""Floats of all inner tensors at once: 256 MiB, twice on the device (starts and ends) and twice on the host."""


@runtime_checkable
class Fedable(Protocol):
    """A session that runs models of several inputs."""

    @property
    def run_feeds(self) -> RunFeeds: ...


def against_reference(path: Path, batches: Batches, runtime: Runtime) -> tuple[ParityReport, Iterator[Fed]]:
    """The integer reference against the runtime, and what the trained model is to be compared with."""
    found = compare_runtime(path, _told(batches, "batches, reference and runtime"), runtime)
    reference, session = _reference(path, runtime), runtime.load(path)
    tensors = tuple(code_tensors(load_model(path)))

    def fed() -> Iterator[Fed]:
        for images in _told(batches, "batches, trained model"):
            _, codes = reference.run(images, keep=tensors)
            yield _fed(images, codes, session)

    return found, fed()


def _told(batches: Batches, what: str) -> Iterator[NDArray[np.float32]]:
    return counted(batches, len(batches), what)


def _reference(path: Path, runtime: Runtime) -> IntegerReference:
    return IntegerReference(path, floats=on_runtime(runtime), islands=islands_on(runtime))


def in_parts(batches: Batches, cuts: Sequence[Cut]) -> list[NDArray[np.float32]]:
    """Batches small enough that all inner tensors of one fit into `MOST_ELEMENTS` numbers."""
    each = sum(math.prod(cut.shape) for cut in cuts)
    size = max(1, MOST_ELEMENTS // each)
    return [batch[at : at + size] for batch in batches for at in range(0, len(batch), size)]


def alone(path: Path, batches: Batches, runtime: Runtime) -> tuple[ParityReport, Iterator[Fed]]:
    """A file without codes: nothing executes in integers, and there is no reference; the trained model is compared with
    the runtime's logits."""
    session = runtime.load(path)
    model, images, difference, numpy = load_model(path), batches[0][:FLOAT_IMAGES], 0.0, ""
    if _half_sums(model):
        logits = codes_in_numpy(model, images, ())[model.graph.output[0].name]
        difference = float(np.abs(logits - session.run(images)).max())
        numpy = (
            f" NumPy, which dequantizes weights and rounds each sum once, gives logits that differ by {difference:.3g} "
            f"at most, of up to {np.abs(logits).max():.3g} ({len(images)} images)."
        )
    found = ParityReport(
        model_sha256=sha256_of(path),
        images=sum(len(images) for images in batches),
        environment=session.environment(),
        tensors=(),
        unwatched={},
        logits_equal=False,
        logits_max_difference=difference,
        notes=(f"Weights alone are integers: nothing is executed in integers, so no codes were compared.{numpy}",),
    )
    return found, (_fed(images, {}, session) for images in _told(batches, "batches, trained model"))


def as_written(path: Path, batches: Batches, runtime: Runtime) -> tuple[ParityReport, Iterator[Fed]]:
    """The file as it stands, where there is no engine of it; the trained model is compared with its codes and logits.
    Where NumPy executes its dialect exactly (`reference.half_sums`), its codes are compared on the first images."""
    model = load_model(path)
    _, cuts = with_ends(model)
    batches = in_parts(batches, cuts)
    half_sums = _half_sums(model)
    tensors = _against_numpy(path, model, cuts, batches[0][:IMAGES]) if half_sums else ()
    numpy = f" NumPy executed it exactly on {min(IMAGES, len(batches[0]))} images." if half_sums else ""
    found = ParityReport(
        model_sha256=sha256_of(path),
        images=sum(len(images) for images in batches),
        environment=runtime.load(path).environment(),
        tensors=tensors,
        unwatched={},
        logits_equal=False,
        logits_max_difference=0.0,
        notes=(
            "No engine ran here: the trained model was compared with the file as written (ONNX Runtime, every "
            f"optimisation off), in its own arithmetic.{numpy}",
        ),
    )
    logits, *others = [output.name for output in model.graph.output]

    def fed() -> Iterator[Fed]:
        told = _told(batches, "batches, trained model")
        for images, one in zip(told, references(path, batches), strict=True):
            codes = {cut.tensor: cut.codes(one.ends[cut.end]) for cut in cuts}
            yield Fed(images, codes, one.ends[logits], tuple(one.ends[name] for name in others))

    return found, fed()


def _half_sums(model: onnx.ModelProto) -> bool:
    """Whether NumPy executes a file's dialect (`reference.half_sums`)."""
    return any(form_named(model, target) for target in TARGETS.values() if target.half_sums)


def _against_numpy(
    path: Path, model: onnx.ModelProto, cuts: Sequence[Cut], images: NDArray[np.float32]
) -> tuple[TensorParity, ...]:
    [written] = references(path, [images])
    exact = codes_in_numpy(model, images, [cut.tensor for cut in cuts])
    return tuple(
        compare_codes(cut.tensor, exact[cut.tensor].astype(np.int16), cut.codes(written.ends[cut.end])) for cut in cuts
    )


def against_engine(path: Path, batches: Batches, runtime: Runtime) -> tuple[ParityReport, Iterator[Fed]]:
    """The file as written against the engine of its cut twin, layer by layer and with inputs beyond every grid; and
    what the trained model is to be compared with: the file's codes, and the logits of the engine itself."""
    with tempfile.TemporaryDirectory() as folder:
        cut_path, cuts = write_cut(path, Path(folder))
        twin = runtime.load(cut_path)
        if not isinstance(twin, Fedable):
            raise ModelError(f"the runtime {runtime.name} runs models of one input only; parity needs one of several")
        batches = in_parts(batches, cuts)
        known = references(path, _told(batches, "batches, file and engine"))
        found = compare_engine(path, cuts, known, twin.run_feeds, twin.environment())
        clips = check_clips(load_model(path), cuts, twin.run_feeds)
    session = runtime.load(path)

    def fed() -> Iterator[Fed]:
        told = _told(batches, "batches, trained model")
        for images, one in zip(told, references(path, batches), strict=True):
            codes = {cut.tensor: cut.codes(one.ends[cut.end]) for cut in cuts}
            yield _fed(images, codes, session)

    return replace(found, clips=clips), fed()


def _fed(images: NDArray[np.float32], codes: Mapping[str, NDArray[np.integer]], session: Session) -> Fed:
    found = every_output(session)(images)
    first, *others = found if isinstance(found, tuple) else (found,)
    return Fed(images, codes, first, tuple(others))
