"""The trained model's side of a parity stage; with torch."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.reference.given_comparison import GivenComparison
from limpq_deploy.export.reference.parity import Fed, ParityReport
from limpq_deploy.pipeline.stages.facts import PAIRS
from limpq_deploy.pipeline.stages.learn import load_finetuned
from limpq_deploy.quant.fold_model import beyond_float32, integer_model
from limpq_deploy.quant.torch_parity import compare_trained
from limpq_deploy.workspace.file_names import FINETUNED, FLOAT_WEIGHTS, GIVEN, GIVEN_EXPORTED, POLICY


def with_trained(subject: Any, folder: Path, found: ParityReport, fed: Iterable[Fed]) -> ParityReport:
    """What was found of the file on a runtime, and beside it the trained model, layer by layer and end to end."""
    policy = PAIRS.of(folder / POLICY)
    traced = subject.traced(folder / FLOAT_WEIGHTS)
    model = load_finetuned(subject, traced, policy, folder / FINETUNED)
    layers, acts = integer_model(model, policy)
    trained = compare_trained(traced, model, layers, acts, fed)
    return replace(
        found,
        faithful=trained.faithful,
        folding=trained.folding,
        end_to_end=trained.end_to_end,
        trained_logits_equal=trained.logits_equal,
        scales=subject.config.scales,
        top1_agreement=trained.agreement,
        disagreements=trained.disagreements,
        given=tuple(load_record(GivenComparison, folder / name) for name in (GIVEN, GIVEN_EXPORTED)),
        notes=(
            *found.notes,
            *_kernel_notes(found.environment),
            *(_sum_notes(beyond_float32(model.placement, layers, acts)) if model.pow2 else ()),
        ),
    )


def _sum_notes(bounds: Mapping[str, int]) -> tuple[str, ...]:
    if not bounds:
        return ()
    shown = ", ".join(f"{name} (up to {bound:,})" for name, bound in bounds.items())
    return (
        f"Sums of {len(bounds)} layers could exceed 2^24 steps, up to which floats are added exactly: {shown}. There "
        "the trained model is equal on the images compared, not on every image.",
    )


def _kernel_notes(environment: Mapping[str, Any]) -> tuple[str, ...]:
    options = environment.get("options") or {}
    if not options:
        return ()
    chosen = ", ".join(f"{key}={value}" for key, value in options.items())
    why = "this CPU is not known to have VNNI" if environment.get("vnni") is None else "this CPU has no VNNI"
    return (f"ONNX Runtime ran with {chosen}: {why}, and faster kernels would saturate for weights beyond 7 bits.",)
