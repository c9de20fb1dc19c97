"""Two builds to report on: the published ResNet-50 policy, and a small model with every part measured."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.placement import ActQuantizer, LayerPlacement, Placement
from limpq_deploy.export.reference.parity import Disagreement, ParityReport, TensorParity, compare_codes
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport, LatencySeries, Threads
from limpq_deploy.export.timing.timing_loop import measure_interleaved
from limpq_deploy.policy.budgets import BUDGETS, COST_FILES, like_budget
from limpq_deploy.policy.explain import explain
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.policy import BudgetUse, LayerBits, Policy, SolverResult
from limpq_deploy.policy.recipes import Recipe
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.policy.what_if import (
    PreviewFigure,
    WhatIf,
    front_points,
    limits_of,
    point_of,
    swept_budget,
    uniform_points,
)
from limpq_deploy.report import ReportInputs
from limpq_deploy.report.curves import Curve
from limpq_deploy.train.evaluate import Accuracy, Evaluation, compare_paired
from limpq_deploy.verdict.answers import Answers, Flipped
from limpq_deploy.verdict.checks import judge
from limpq_deploy.verdict.record import (
    AccuracyResult,
    EndToEndParity,
    LayerParity,
    Limits,
    count_bitops,
    same_bits_everywhere,
)

BITS = (2, 3, 4, 5, 6)
SMALL = (
    ("conv1", 147456, 432, 8),
    ("layer1.0.conv1", 589824, 2304, None),
    ("layer1.0.conv2", 589824, 2304, None),
    ("layer2.0.conv1", 294912, 4608, None),
    ("layer2.0.conv2", 589824, 9216, None),
    ("layer2.0.shortcut.0", 32768, 512, None),
    ("layer3.0.conv1", 294912, 18432, None),
    ("layer3.0.conv2", 589824, 36864, None),
    ("layer3.0.shortcut.0", 32768, 2048, None),
    ("fc", 640, 640, 8),
)


def placement_of(indicators: Indicators, target: str) -> Placement:
    """Each layer with a quantizer of its own; pinned layers stand first and last."""
    pinned = {layer.name: layer.weight_bits for layer in indicators.pinned}
    order: list[LayerIndicators | PinnedLayer] = [*indicators.pinned[:1], *indicators.layers, *indicators.pinned[1:]]
    return Placement(
        model=indicators.model,
        target=target,
        input_shape=(1, 3, 32, 32),
        layers=tuple(
            LayerPlacement(
                name=layer.name,
                kind="linear" if layer.name.startswith("fc") else "conv",
                input=f"{layer.name}.in",
                macs=layer.macs,
                num_weights=layer.num_weights,
                out_channels=16,
                pinned_bits=pinned.get(layer.name),
            )
            for layer in order
        ),
        quantizers=tuple(
            ActQuantizer(
                name=f"{layer.name}.in", tensor="x", signed=False, bits=pinned.get(layer.name), layers=(layer.name,)
            )
            for layer in order
        ),
    )


def small_indicators(names: Callable[[str], str] = str) -> Indicators:
    random = np.random.default_rng(3)
    layers = []
    for name, macs, num_weights, pinned in SMALL:
        if pinned is not None:
            continue
        weight, act = (np.sort(random.lognormal(-2 + shift, 0.5, len(BITS)))[::-1] for shift in (0, 1))
        first_weight, first_act = (values / random.uniform(0.6, 1.3, len(BITS)) for values in (weight, act))
        layers.append(
            LayerIndicators(
                name=names(name),
                macs=macs,
                num_weights=num_weights,
                weight=tuple(weight.tolist()),
                act=tuple(act.tolist()),
                weight_init=tuple(first_weight.tolist()),
                act_init=tuple(first_act.tolist()),
            )
        )
    return Indicators(
        model="resnet8",
        bits=BITS,
        layers=tuple(layers),
        pinned=tuple(
            PinnedLayer(name=names(name), macs=macs, num_weights=num_weights, weight_bits=pinned, act_bits=pinned)
            for name, macs, num_weights, pinned in SMALL
            if pinned is not None
        ),
    )


def uniform_policy(placement: Placement, weight: int, act: int) -> Policy:
    return Policy(
        bits={layer.name: LayerBits(weight=weight, act=act) for layer in placement.searched}, objective=0.0, alpha=2.0
    )


def evaluation(correct: int, images: int, seed: int) -> Evaluation:
    right = np.zeros(images, bool)
    right[np.random.default_rng(seed).permutation(images)[:correct]] = True
    labels = np.arange(images) % 10
    predictions = np.where(right, labels, (labels + 1) % 10)
    accuracy = Accuracy(images=images, classes=10, correct=correct, top1=100 * correct / images)
    return Evaluation(accuracy=accuracy, predictions=predictions, labels=labels)


def measured_latency() -> LatencyReport:
    """Real samples: products of matrices of three sizes, called as the engines of one model would be."""
    matrices = {
        name: np.ones((size, size), np.float32) for name, size in (("float", 256), ("uniform8", 200), ("mixed", 180))
    }
    runs: tuple[Threads, ...] = (1, "default")
    protocols = tuple(
        LatencyProtocol(
            threads=threads, warm_up_ms=5, settle_ms=1, turn_ms=3, min_seconds=0.05, min_iterations=120, seed=1
        )
        for threads in runs
    )
    series: list[LatencySeries] = []
    for protocol in protocols:
        candidates = {name: (lambda matrix=matrix: matrix @ matrix) for name, matrix in matrices.items()}
        series += measure_interleaved(candidates, protocol)
    return LatencyReport(environment=read_environment(), protocols=protocols, series=tuple(series))


def small_parity(placement: Placement) -> ParityReport:
    """Codes of a size that resnet8 has; folding moves a few, float rounding one."""
    random = np.random.default_rng(0)
    tensors, faithful, folding = [], [], []
    for index, layer in enumerate(placement.layers):
        codes = random.integers(0, 16, 40_000 >> index // 3)
        folded = codes + (random.random(codes.size) < 2e-3)
        rounded = codes.copy()
        rounded[0] += index == 4
        name = f"{layer.name}.in_codes"
        tensors.append(compare_codes(name, codes, codes))
        faithful.append(compare_codes(name, codes, rounded, 0.0004 if index == 4 else None))
        folding.append(compare_codes(name, codes, folded, 0.31))
    return ParityReport(
        model_sha256="0f" * 32,
        images=360,
        environment={},
        tensors=tuple(tensors),
        unwatched={"avgpool_codes": "fused into its reader"},
        logits_equal=True,
        logits_max_difference=0.0,
        faithful=tuple(faithful),
        folding=tuple(folding),
        end_to_end=tuple(folding),
        trained_logits_equal=False,
        top1_agreement=358 / 360,
        disagreements=(Disagreement(image=41, trained=3, runtime=8), Disagreement(image=277, trained=1, runtime=7)),
        notes=("Weights keep 7 bits where the CPU would saturate.",),
    )


def totals(parts: tuple[TensorParity, ...]) -> tuple[int, int]:
    return sum(part.elements for part in parts), sum(part.mismatches for part in parts)


def small_inputs(names: Callable[[str], str] = str) -> ReportInputs:
    """Everything measured, ten layers."""
    indicators = small_indicators(names)
    placement = placement_of(indicators, "onnxruntime")
    bits = dict(zip((layer.name for layer in placement.searched), (5, 4, 3, 4, 6, 3, 3, 5), strict=True))
    mixed = Policy(
        bits={name: LayerBits(weight=width, act=8 - width) for name, width in bits.items()},
        objective=1.2345678,
        alpha=2.0,
        solver=SolverResult(name="cbc", status="optimal", bound=1.2345677, gap=8e-8, seconds=0.0213),
        outliers=treat_outliers(indicators, "forbid").outliers,
    )
    uniform = uniform_policy(placement, 4, 4)
    bitops = (
        count_bitops("mixed", placement, mixed.pairs()),
        count_bitops("w4a4", placement, uniform.pairs()),
        count_bitops("uniform8", placement, same_bits_everywhere(placement, 8, 8)),
        count_bitops("float", placement, same_bits_everywhere(placement, 32, 32)),
    )
    found = {
        name: evaluation(correct, 3600, seed=0)
        for name, correct in {"float": 3540, "mixed": 3520, "uniform": 3510, "uniform8": 3540}.items()
    }
    parity = small_parity(placement)
    latency = measured_latency()
    codes, mismatches = totals(parity.faithful)
    verdict = judge(
        model="resnet8",
        target="onnxruntime",
        budgets=(
            BudgetUse(
                name="bitops_searched",
                used=bitops[0].nominal_searched,
                limit=bitops[1].nominal_searched,
                unit="BitOps",
            ),
        ),
        bitops=bitops,
        limits=Limits(),
        accuracy=AccuracyResult(
            float=found["float"].accuracy,
            mixed=found["mixed"].accuracy,
            uniform=found["uniform"].accuracy,
            uniform8=found["uniform8"].accuracy,
            uniform_bits="w4a4",
            against_uniform=compare_paired(found["mixed"], found["uniform"]),
            against_float=compare_paired(found["mixed"], found["float"]),
            of="the exported files on onnxruntime, 3,600 images of test",
        ),
        parity=EndToEndParity(images=360, codes=parity.elements, mismatches=0, logits_bit_equal=True),
        layer_parity=LayerParity(
            images=360,
            layers=len(placement.layers),
            codes=codes,
            mismatches=mismatches,
            max_lsb=1,
            max_tie_distance=0.0004,
            top1_agreement=358 / 360,
            disagreements=2,
        ),
        float_nodes=(),
        latency=latency,
    )
    return ReportInputs(
        title="resnet8 at w4a4",
        command="limpq-deploy build --like w4a4 --seed 0",
        created="2026-01-02 03:04 UTC",
        verdict=verdict,
        placement=placement,
        policy=mixed,
        uniform=uniform,
        indicators=indicators,
        latency=latency,
        parity=parity,
        built={"Data": "digits, 1,437 images to train, 360 to test", "Seed": "0"},
        versions={"limpq-deploy": "0.1.0"},
        files={"model.qdq.onnx": 98_304, "model.float.onnx": 312_000},
        class_names=tuple("0123456789"),
    )


def resnet50_inputs(shared: Path) -> ReportInputs:
    """The published policy on 54 layers; nothing else was measured."""
    indicators = load_record(Indicators, shared / "golden" / "resnet50_true_macs.indicators.json")
    published = load_record(Policy, shared / "golden" / "resnet50_w3a4_cr12.2.policy.json")
    placement = placement_of(indicators, "onnxruntime")
    mixed = replace(published, outliers=treat_outliers(indicators, "forbid").outliers)
    uniform = uniform_policy(placement, 3, 4)
    bitops = (
        count_bitops("mixed", placement, mixed.pairs()),
        count_bitops("w3a4", placement, uniform.pairs()),
        count_bitops("uniform8", placement, same_bits_everywhere(placement, 8, 8)),
    )
    verdict = judge(
        model="resnet50",
        target="onnxruntime",
        budgets=(
            BudgetUse(
                name="bitops_searched",
                used=bitops[0].nominal_searched,
                limit=bitops[1].nominal_searched,
                unit="BitOps",
            ),
        ),
        bitops=bitops,
        limits=Limits(),
    )
    return ReportInputs(
        title="ResNet-50, the published W3A4 policy",
        command="limpq-deploy search resnet50_true_macs.indicators.json --like w3a4 --compression-ratio 12.2",
        created="2026-01-02 03:04 UTC",
        verdict=verdict,
        placement=placement,
        policy=mixed,
        uniform=uniform,
        indicators=indicators,
    )


def small_what_if(indicators: Indicators, policy: Policy) -> WhatIf:
    """A real front and real prices; the previews are made up, for no network is here."""
    asked = {**dict.fromkeys((*BUDGETS, *COST_FILES)), "like": "w4a4"}
    swept = swept_budget(asked, indicators, {})
    recipe = Recipe(importance="scale", alpha=2.0, outliers="repair")
    budgets = (like_budget(indicators, 4, 4),)
    limits = limits_of(swept, (), 6)
    points = front_points(indicators, recipe, swept, limits, (), solve=PolicySearch(), admit=lambda one: one)
    own = point_of("kl, alpha 1, repair", policy.pairs(), indicators, None)
    every = [*points, *uniform_points(indicators, None), own]
    seen = [
        replace(
            point,
            preview=PreviewFigure(value=90.0 + at, low=88.0 + at, high=91.5 + at, loss=0.5 - at / 100),
        )
        for at, point in enumerate(every)
    ]
    return WhatIf(
        swept=swept.name,
        importance=recipe.importance,
        alpha=recipe.alpha,
        outliers=recipe.outliers,
        points=tuple(seen[: len(points)]),
        uniform=tuple(seen[len(points) : -1]),
        candidates=(seen[-1],),
        explanation=explain(replace(policy, outliers=None), indicators, budgets, outliers="repair"),
        images=500,
    )


def small_answers() -> Answers:
    """Five images of each of ten classes; float alone has one right, the policy's file two."""
    labels = [number for number in range(10) for _ in range(5)]
    plain, mixed = list(labels), list(labels)
    mixed[7], plain[20], plain[33] = 9, 1, 2
    png = base64.b64encode(io_of_picture()).decode()
    return Answers(
        labels=tuple(labels),
        classes=10,
        predictions={"float": tuple(plain), "mixed": tuple(mixed)},
        lost=(Flipped(image=7, label=1, by_float=1, by_mixed=9, png=png),),
        won=(
            Flipped(image=20, label=4, by_float=1, by_mixed=4, png=png),
            Flipped(image=33, label=6, by_float=2, by_mixed=6, png=None),
        ),
    )


def io_of_picture() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, "PNG")
    return stream.getvalue()


def whole_inputs(names: Callable[[str], str] = str) -> ReportInputs:
    """The small build with what other budgets would give, answers and losses."""
    inputs = small_inputs(names)
    assert inputs.indicators is not None
    losses = {"2": [(step, 2.0 / step) for step in range(1, 300)], "6": [(step, 1.0 / step) for step in range(1, 300)]}
    what_if = small_what_if(inputs.indicators, inputs.policy)
    return replace(
        inputs,
        what_if=what_if,
        commands={one.name: f"limpq-deploy build --max-gbitops {one.name}" for one in what_if.points},
        answers=small_answers(),
        curves=(Curve(title="All bit-widths together", losses=losses),),
    )


@pytest.fixture(scope="session")
def whole_build() -> Callable[[Callable[[str], str]], ReportInputs]:
    """The whole build, its layer names changed by a function."""
    return whole_inputs


@pytest.fixture(scope="session")
def whole() -> ReportInputs:
    return whole_inputs()


@pytest.fixture(scope="session")
def small_build() -> Callable[[Callable[[str], str]], ReportInputs]:
    """The small build, its layer names changed by a function."""
    return small_inputs


@pytest.fixture(scope="session")
def small() -> ReportInputs:
    return small_inputs()


@pytest.fixture(scope="session")
def resnet50(shared: Path) -> ReportInputs:
    return resnet50_inputs(shared)
