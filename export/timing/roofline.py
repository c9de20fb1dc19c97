"""The least time that bytes and operations leave to an engine on a GPU: a bound, never a latency.

    floor = sum over layers of max(bytes moved / memory bandwidth, operations / peak rate)

Layers run one after another, and no layer is faster than memory and tensor cores allow. Bytes that stay in the L2 cache
between two kernels do not pass through memory: ``compute_ms`` is a bound for them too, ``floor_ms`` where tensors are
larger than the cache. Real engines take longer: launches, kernels without tensor cores, rates that no kernel reaches.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from limpq_deploy.export.records.targets import in_float
from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.gpu_peaks import GpuPeaks

WORTH = 0.95
"""Floors nearer to that of FP16 than this are no expectation of a gain."""

MANY = 3
"""Layers that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Of a network at one ``format`` throughout, for one call. ``layers``: the floor of each, in ms. ``missing``: the
    GPU has no such tensor cores, and FP16's rate stands."""

    gpu: str
    format: str
    floor_ms: float
    compute_ms: float
    layers: Mapping[str, float]
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """``pays``: whether a format's floor lies clearly below that of FP16; ``why``: a sentence; ``eaters``: the layers
    whose own floor is higher than in FP16, by what they lose."""

    gpu: str
    format: str
    pays: bool
    why: str
    eaters: tuple[str, ...] = ()


def format_of(pair: tuple[int, int]) -> str | None:
    """The tensor cores' format of a native pair; None for those that have none."""
    if in_float(max(pair)):
        return "fp16" if max(pair) == 16 else None
    return "int8" if max(pair) <= 8 else "fp8"


def floors(table: CostTable, gpu: GpuPeaks) -> dict[str, Floor]:
    """Floors of the networks in which every layer that has a choice is at one priced pair, by format; of several pairs
    the widest integers'."""
    found = {}
    priced: dict[str, dict[tuple[int, int], float]] = {}
    for part in (*table.parts, *table.bounds):
        priced.setdefault(part.layer, {})[part.weight_bits, part.act_bits] = part.moved.bytes
    for pair in sorted({pair for prices in priced.values() for pair in prices}):
        name = format_of(pair)
        if name is not None and all(pair in prices or len(prices) == 1 for prices in priced.values()):
            found[name] = _floor(table, priced, gpu, pair, name)
    return found


def expectations(table: CostTable, gpu: GpuPeaks) -> tuple[Expectation, ...]:
    """Whether each format is expected to pay beside FP16 on this GPU at the table's batch."""
    known = floors(table, gpu)
    half = known.get("fp16")
    return tuple(_expected(one, half, table.batch) for one in known.values() if half is not None and one is not half)


def _expected(one: Floor, half: Floor, batch: int) -> Expectation:
    where = f"on {one.gpu} at batch {batch}"
    if one.missing:
        return Expectation(
            gpu=one.gpu, format=one.format, pays=False, why=f"{one.gpu} has no {one.format} tensor cores; take fp16"
        )
    lost = {name: ms - half.layers[name] for name, ms in one.layers.items() if ms > half.layers[name]}
    eaters = tuple(sorted(lost, key=lambda name: -lost[name])[:MANY])
    pays = one.floor_ms < WORTH * half.floor_ms
    figures = f"bounds {one.floor_ms:.4f} ms and {half.floor_ms:.4f} ms in fp16"
    if pays:
        why = f"{one.format} may pay {where}: {figures}"
    elif one.floor_ms > half.floor_ms:
        why = f"{one.format} is not expected to pay {where}: it moves more than fp16 ({figures}); take fp16"
    else:
        why = f"{one.format} is not expected to pay {where}: hardly less than fp16 ({figures}); take fp16"
    if eaters:
        why += f"; what eats the gain: {', '.join(eaters)}"
    return Expectation(gpu=one.gpu, format=one.format, pays=pays, why=why, eaters=eaters)


def _floor(
    table: CostTable,
    priced: Mapping[str, Mapping[tuple[int, int], float]],
    gpu: GpuPeaks,
    pair: tuple[int, int],
    name: str,
) -> Floor:
    layers, compute = {}, 0.0
    for layer, prices in priced.items():
        own = pair if pair in prices else next(iter(prices))
        rate = gpu.rates.get(format_of(own) or "fp16", gpu.rates["fp16"])
        ops_ms = 2e3 * table.macs[layer] * table.batch / (rate * 1e12)
        layers[layer] = max(1e3 * prices[own] / (gpu.bandwidth * 1e9), ops_ms)
        compute += ops_ms
    return Floor(
        gpu=gpu.name,
        format=name,
        floor_ms=sum(layers.values()),
        compute_ms=compute,
        layers=layers,
        missing=name not in gpu.rates,
    )
