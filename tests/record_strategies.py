"""Random records of what is trained and chosen: grids, placements, indicators, policies, stages."""

from typing import Any

from hypothesis import strategies as st

from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.params import QuantParams, TensorQuant
from limpq_deploy.export.records.placement import ActQuantizer, LayerPlacement, Placement
from limpq_deploy.export.records.targets import TARGETS
from limpq_deploy.policy.indicators import Indicators, LayerEdge, LayerIndicators, Measure, PinnedLayer
from limpq_deploy.policy.policy import BudgetUse, LayerBits, Policy, PolicyCandidate, SolverResult, Tournament
from limpq_deploy.train.finetuned import Candidate, FineTuned, Top1
from limpq_deploy.train.settings import FinetuneSettings
from limpq_deploy.workspace.workspace import BuildState, StageState

TEXT = st.text(max_size=12)
NAME = st.from_regex(r"[a-z][a-z0-9_.]{0,9}", fullmatch=True)
COUNT = st.integers(0, 2**70)
SHA256 = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
REAL = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(1e-30, 1e30)
SHARE = st.floats(0, 1)
THREADS: st.SearchStrategy[Any] = st.one_of(st.just("default"), st.integers(1, 64))


def tuples(item: st.SearchStrategy[Any], **sizes: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(item, **({"max_size": 3} | sizes)).map(tuple)  # type: ignore[arg-type]


def exactly(size: int, item: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*[item] * size)


def optional(item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | item


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | TEXT | REAL,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAME, inner, max_size=2),
    max_leaves=4,
)

GRID = st.booleans().flatmap(
    lambda signed: st.builds(
        QuantGrid, bits=st.integers(2, 8), signed=st.just(signed), narrow=st.booleans() if signed else st.just(False)
    )
)
PARAMS = st.one_of(
    st.builds(QuantParams, grid=GRID, scale=exactly(1, POSITIVE)),
    st.builds(QuantParams, grid=GRID, scale=tuples(POSITIVE, min_size=1), axis=st.integers(0, 3)),
)
TENSOR_QUANT = st.builds(TensorQuant, tensor=TEXT, params=PARAMS)
TARGET = st.sampled_from(sorted(TARGETS.values(), key=lambda target: target.name))


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    names = draw(st.lists(NAME, min_size=1, max_size=4, unique=True))
    bits = optional(st.integers(2, 8))
    quantizers = tuple(
        draw(
            st.builds(
                ActQuantizer,
                name=st.just(name),
                tensor=NAME,
                signed=st.booleans(),
                bits=bits,
                layers=tuples(NAME),
                parent=optional(st.sampled_from(names)),
            )
        )
        for name in names
    )
    layer = st.builds(
        LayerPlacement,
        name=NAME,
        kind=st.sampled_from(["conv", "linear"]),
        input=st.sampled_from(names),
        macs=COUNT,
        num_weights=COUNT,
        out_channels=st.integers(1, 99),
        pinned_bits=bits,
        batchnorm=optional(NAME),
    )
    return Placement(
        model=draw(NAME),
        target=draw(st.sampled_from(sorted(TARGETS))),
        input_shape=draw(tuples(st.integers(1, 999), min_size=3)),
        layers=draw(tuples(layer)),
        quantizers=quantizers,
    )


@st.composite
def indicators(draw: st.DrawFn) -> Indicators:
    bits = tuple(sorted(draw(st.sets(st.integers(2, 8), min_size=1, max_size=5))))
    row = exactly(len(bits), POSITIVE)
    measures = optional(st.dictionaries(NAME, st.builds(Measure, weight=row, act=row), max_size=2))
    names = draw(st.lists(NAME, max_size=4, unique=True))
    layers = tuple(
        draw(
            st.builds(
                LayerIndicators,
                name=st.just(name),
                macs=COUNT,
                num_weights=COUNT,
                weight=row,
                act=row,
                act_group=optional(st.just(f"group of {name}")),
                weight_init=optional(row),
                act_init=optional(row),
                measures=measures,
                kind=st.sampled_from([None, "conv", "linear"]),
            )
        )
        for name in names
    )
    pinned = st.builds(
        PinnedLayer,
        name=st.just("the.pinned.one"),
        macs=COUNT,
        num_weights=COUNT,
        weight_bits=st.just(8),
        act_bits=st.just(8),
    )
    ends = [LayerEdge(producer=names[0], consumer=name, elements=draw(COUNT)) for name in names[1:]]
    return Indicators(
        model=draw(TEXT),
        bits=bits,
        layers=layers,
        pinned=draw(tuples(pinned, max_size=1)),
        source=draw(optional(JSON)),
        edges=draw(st.sampled_from([None, (), tuple(ends)])),
    )


BUDGET = st.builds(BudgetUse, name=NAME, used=COUNT, limit=COUNT, unit=TEXT)
SOLVER = st.builds(SolverResult, name=NAME, status=NAME, bound=REAL, gap=REAL, seconds=REAL)
LAYER_BITS = st.dictionaries(NAME, st.builds(LayerBits, weight=st.integers(2, 8), act=st.integers(2, 8)), max_size=3)
CANDIDATE = st.builds(
    PolicyCandidate,
    name=TEXT,
    bits=LAYER_BITS,
    top1=REAL,
    loss=REAL,
    importance=optional(NAME),
    alpha=optional(REAL),
    outliers=optional(st.sampled_from(("forbid", "repair", "keep"))),
)
TOURNAMENT = st.builds(
    Tournament, candidates=tuples(CANDIDATE), chosen=TEXT, why=TEXT, images=COUNT, batchnorm_images=COUNT
)
POLICY = st.builds(
    Policy,
    bits=LAYER_BITS,
    objective=REAL,
    alpha=REAL,
    costs=tuples(BUDGET),
    solver=optional(SOLVER),
    model=optional(TEXT),
    importance=optional(NAME),
    tournament=optional(TOURNAMENT),
    source=optional(JSON),
)
PREPROCESS = st.sampled_from([1, 3]).flatmap(
    lambda channels: st.builds(
        Preprocess,
        height=st.integers(1, 300),
        width=st.integers(1, 300),
        mean=exactly(channels, REAL),
        std=exactly(channels, POSITIVE),
        resize=optional(st.integers(300, 999)),
        channels=st.just(channels),
    )
)
FINETUNE_SETTINGS = st.builds(
    FinetuneSettings,
    steps=st.integers(4, 10**6),
    batch_size=st.integers(2, 1024),
    learning_rate=POSITIVE,
    scale_learning_rate=POSITIVE,
    warmup_steps=st.integers(0, 3),
    weight_decay=SHARE,
    label_smoothing=st.floats(0, 0.9),
    momentum=st.floats(0, 0.99),
    gradient_clip=POSITIVE,
    augment=st.booleans(),
    candidates=st.integers(1, 4),
    batchnorm_images=st.integers(2, 10**6),
)
TOP1 = st.builds(Top1, val=REAL, test=REAL)
FINETUNED = st.builds(
    FineTuned,
    model=NAME,
    target=NAME,
    bits=st.dictionaries(NAME, st.builds(LayerBits, weight=st.integers(2, 8), act=st.integers(2, 8)), max_size=3),
    seed=COUNT,
    settings=FINETUNE_SETTINGS,
    epochs=POSITIVE,
    float_top1=TOP1,
    top1=TOP1,
    chosen_step=COUNT,
    candidates=tuples(st.builds(Candidate, step=COUNT, val=REAL)),
    weights=tuples(TENSOR_QUANT),
    activations=tuples(TENSOR_QUANT),
    seconds=POSITIVE,
)
STAGE = st.builds(
    StageState,
    inputs=SHA256,
    outputs=st.dictionaries(NAME, SHA256, max_size=3),
    seconds=POSITIVE,
    said=TEXT,
    named=st.dictionaries(NAME, SHA256, max_size=3),
)
BUILD_STATE = st.builds(BuildState, stages=st.dictionaries(NAME, STAGE, max_size=3))
