"""Prices of a model's parts: engines of whole policies are built, and what their kernels move is told apart.

Every engine is kept when it is built, so that a run that was stopped goes on where it was.
"""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.files import cache_folder, keep, kept_bytes
from limpq_deploy.calibration.numbers.formats import FP8, pair_name
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import in_float
from limpq_deploy.export.runtimes.tensorrt.log import Report
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import compiler_name, installed_version
from limpq_deploy.export.runtimes.tensorrt_rtx.build import compile_model
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import capabilities_named
from limpq_deploy.export.runtimes.tensorrt_rtx.needs import without_fp8
from limpq_deploy.export.runtimes.tensorrt_rtx.sources import builder_digest
from limpq_deploy.export.timing.cost_table import (
    Check,
    CostTable,
    GroupCost,
    GroupPrice,
    Moved,
    NeighbourCost,
    PartCost,
    network_digest,
)
from limpq_deploy.export.timing.kernel_costs import moved_by_layer
from limpq_deploy.export.timing.price_fit import Built, Prices, Surroundings, fit
from limpq_deploy.export.timing.price_wiring import seen_further
from limpq_deploy.export.timing.table import narrowest
from limpq_deploy.export.timing.timing_graph import timing_graph

GRAPHS = 64
"""Engines that mix precisions, for each precision after the first."""

AROUND = 16
"""Engines around a policy, which differ from it in one layer."""

FOLDS = 4
"""Parts of these, each of which is predicted by a table of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PricingSettings:
    """``graphs``: engines that mix precisions; None: `GRAPHS` for each precision after the first."""

    batch: int = 1
    gpus: tuple[str, ...] = ("sm89",)
    graphs: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What one engine moves, by layer."""

    moved: dict[str, Moved]


def price(
    template: onnx.ModelProto,
    placement: Placement,
    edges: Sequence[tuple[str, str]],
    pairs: Sequence[BitPair],
    settings: PricingSettings,
    *,
    model_sha256: str,
    report: Report,
    bounds: Sequence[BitPair] = (),
    near: Sequence[Mapping[str, BitPair]] = (),
) -> CostTable:
    """Price every layer at each of ``pairs`` by building, FP8 where all capabilities execute it. Needs the compiler and
    no GPU.

    ``edges``: (producer, consumer) of every tensor that one layer hands to another. ``bounds``: pairs that no policy
    takes; one engine of each, and none that mixes them. ``near``: policies that are built too, with `AROUND` of each
    that differ in one layer: the table is held to them, and ``table.near`` says what was predicted without them.
    Raises MissingExtra without the compiler, BuildFailed where it refuses a graph, SettingError for capabilities that
    one engine cannot be for, and for bits of ``near`` without a price.
    """
    no_fp8 = without_fp8(capabilities_named(settings.gpus), placement.model) is not None
    ordered, beside = (
        _narrowest_first(pair for pair in some if not (no_fp8 and FP8 in pair)) for some in (pairs, bounds)
    )
    units = _units(placement)
    order = {layer.name: at for at, layer in enumerate(placement.layers)}
    around = Surroundings(units=units, edges=tuple(edges), further=seen_further(template, order))
    count = GRAPHS * (len(ordered) - 1) if settings.graphs is None else settings.graphs
    policies = {pair_name(pair): _everywhere(placement, pair) for pair in (*ordered, *beside)}
    policies |= {f"mixed {at}": one for at, one in enumerate(_mixed(placement, units, ordered, count, settings.seed))}
    given = _near(placement, units, ordered, near, settings.seed)
    policies |= given
    built: dict[str, Built] = {}
    for number, (name, policy) in enumerate(policies.items()):
        report(number, len(policies), name)
        built[name] = Built(
            pairs=_pairs(placement, units, ordered, policy),
            moved=built_moved(template, placement, policy, settings),
        )
    report(len(policies), len(policies), "fitting")
    uniform = {pair: built[pair_name(pair)] for pair in ordered}
    known = {*given, *map(pair_name, (*ordered, *beside))}
    certain = [built[name] for name in given]
    again = [one.pairs for one in certain]
    mixed = {name: one for name, one in built.items() if name not in known and one.pairs not in again}
    without = fit(around, uniform, list(mixed.values()))
    return _table(
        fit(around, uniform, list(mixed.values()), certain) if certain else without,
        placement,
        settings,
        model_sha256=model_sha256,
        checks=tuple(_checks(around, uniform, mixed, policies)),
        near=tuple(_check(name, policy, built[name], without) for name, policy in given.items()),
        bounds=tuple(
            PartCost(
                layer=layer.name,
                weight_bits=pair[0],
                act_bits=pair[1],
                moved=built[pair_name(pair)].moved.get(layer.name, Moved()),
            )
            for pair in beside
            for layer in placement.searched
        ),
    )


def built_moved(
    template: onnx.ModelProto, placement: Placement, policy: Mapping[str, BitPair], settings: PricingSettings
) -> dict[str, Moved]:
    """What the engine of a policy moves, by layer: from the cache, or built now."""
    model = timing_graph(template, placement, policy)
    asked = [builder_digest(), installed_version() or "", str(settings.batch), *settings.gpus, to_json(placement)]
    digest = hashlib.sha256("\n".join(asked).encode() + model.SerializeToString(deterministic=True))
    file = cache_folder() / "priced" / f"{digest.hexdigest()[:32]}.kept"
    if (known := kept_bytes(file)) is not None:
        return from_json(_Kept, known, str(file)).moved
    batch = BatchRange(least=settings.batch, best=settings.batch, most=settings.batch)
    compiled = compile_model(model, EngineOptions(batch=batch), settings.gpus, report=lambda done, total, note: None)
    order = [layer.name for layer in placement.layers]
    found = moved_by_layer(compiled.result.layers, model, order, settings.batch)
    keep(file, to_json(_Kept(moved=found)).encode())
    return found


def _narrowest_first(pairs: Iterable[BitPair]) -> tuple[BitPair, ...]:
    return tuple(sorted(set(pairs), key=lambda pair: (pair[0] * pair[1], pair)))


def _units(placement: Placement) -> dict[str, str]:
    """Layers that read one tensor are decided together."""
    first: dict[str, str] = {}
    return {
        layer.name: layer.name
        if layer.pinned_bits is not None or not placement.spec.shared_inputs
        else first.setdefault(layer.input, layer.name)
        for layer in placement.layers
    }


def _everywhere(placement: Placement, pair: BitPair) -> dict[str, BitPair]:
    return {layer.name: pair for layer in placement.searched}


def _mixed(
    placement: Placement, units: Mapping[str, str], pairs: Sequence[BitPair], count: int, seed: int
) -> list[dict[str, BitPair]]:
    """Policies that mix all pairs evenly; a unit has one."""
    generator = random.Random(seed)
    found = []
    for _ in range(count if len(pairs) > 1 else 0):
        chosen: dict[str, BitPair] = {}
        for layer in placement.searched:
            chosen.setdefault(units[layer.name], generator.choice(pairs))
        found.append({layer.name: chosen[units[layer.name]] for layer in placement.searched})
    return found


def _near(
    placement: Placement,
    units: Mapping[str, str],
    pairs: Sequence[BitPair],
    near: Sequence[Mapping[str, BitPair]],
    seed: int,
) -> dict[str, dict[str, BitPair]]:
    """These policies at the pairs that run their bits, each followed by some that differ from it in one unit. Raises
    SettingError for bits that no pair runs, and for a layer that has none."""
    generator, found = random.Random(seed), dict[str, dict[str, BitPair]]()
    for number, policy in enumerate(near):
        own: dict[str, BitPair] = {}
        for layer in placement.searched:
            asked = policy.get(layer.name)
            pair = None if asked is None else narrowest(pairs, asked)
            if pair is None:
                raise SettingError(
                    f"a policy to price near gives layer {layer.name!r} "
                    f"{'no bits' if asked is None else pair_name(asked)}, and priced are "
                    f"{', '.join(map(pair_name, pairs))}; name a policy that was searched for this build"
                )
            own[layer.name] = pair
        found[f"policy {number}"] = own
        searched = dict.fromkeys(units[layer.name] for layer in placement.searched)
        others = [(unit, pair) for unit in searched for pair in pairs if own[unit] != pair]
        for unit, pair in generator.sample(others, min(AROUND, len(others))):
            name = f"policy {number} with {unit} at {pair_name(pair)}"
            found[name] = {layer: pair if units[layer] == unit else old for layer, old in own.items()}
    return found


def _pairs(
    placement: Placement, units: Mapping[str, str], pairs: Sequence[BitPair], policy: Mapping[str, BitPair]
) -> dict[str, BitPair]:
    """The priced pair of every unit; pinned layers run at the target's pair for their bits."""
    found = {}
    for layer in placement.layers:
        if units[layer.name] == layer.name:
            bits = layer.pinned_bits
            found[layer.name] = policy[layer.name] if bits is None else placement.spec.realised_pair(bits, bits)
    return found


def _checks(
    around: Surroundings,
    uniform: Mapping[BitPair, Built],
    mixed: Mapping[str, Built],
    policies: Mapping[str, Mapping[str, BitPair]],
) -> list[Check]:
    """Every mixed engine beside what a table predicts that was made without it and those of its fold."""
    names, found = list(mixed), []
    for fold in range(min(FOLDS, len(names))):
        left_out = names[fold::FOLDS]
        prices = fit(around, uniform, [mixed[name] for name in names if name not in left_out])
        found += [_check(name, policies[name], mixed[name], prices) for name in left_out]
    return sorted(found, key=lambda one: names.index(one.name))


def _check(name: str, policy: Mapping[str, BitPair], built: Built, prices: Prices) -> Check:
    return Check(name=name, pairs=dict(policy), built=built.total, predicted=prices.of(built.pairs))


def _table(
    prices: Prices,
    placement: Placement,
    settings: PricingSettings,
    *,
    model_sha256: str,
    checks: tuple[Check, ...],
    near: tuple[Check, ...],
    bounds: tuple[PartCost, ...],
) -> CostTable:
    layers = ((layer.name, layer.macs, layer.num_weights) for layer in placement.layers)
    return CostTable(
        model=placement.model,
        target=placement.target,
        compiler=compiler_name(),
        capabilities=settings.gpus,
        batch=settings.batch,
        network=network_digest(layers),
        model_sha256=model_sha256,
        units=dict(prices.units),
        macs={layer.name: layer.macs for layer in placement.layers},
        parts=tuple(
            PartCost(layer=layer, weight_bits=pair[0], act_bits=pair[1], moved=moved)
            for (layer, pair), moved in prices.own.items()
        ),
        neighbours=tuple(
            NeighbourCost(first=first, second=second, before=before, after=after, moved=moved)
            for (first, second, before, after), moved in prices.together.items()
        ),
        groups=tuple(
            GroupCost(
                units=units, prices=tuple(GroupPrice(pairs=chosen, moved=moved) for chosen, moved in some.items())
            )
            for units, some in prices.groups.items()
        ),
        checks=checks,
        near=near,
        bounds=bounds,
    )


def pairs_of(placement: Placement, asked: Sequence[BitPair]) -> tuple[BitPair, ...]:
    """What to price for layers that may take these bits: the target's pairs that run them, those of integers with a
    narrower grid for activations apart, for a stream is quantized again for it; and its native ones up to 16 bits."""
    spec = placement.spec
    found = {pair for pair in spec.native_pairs if max(pair) <= 16}
    for weight_bits, act_bits in asked:
        pair = spec.realised_pair(weight_bits, act_bits)
        narrow = not in_float(max(pair)) and act_bits < pair[1] == spec.carrier_bits
        found |= {pair, (pair[0], pair[1] - 1)} if narrow else {pair}
    return tuple(sorted(found))
