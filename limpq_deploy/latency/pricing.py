"""A build's model priced by a compiler, from its files alone. No torch and no GPU here."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.markers import with_markers
from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.pricing import PricingSettings, pairs_of, price
from limpq_deploy.latency.profiling import profiled_files
from limpq_deploy.policy.admitted import admitted_pairs
from limpq_deploy.policy.policy import Policy
from limpq_deploy.progress import progress
from limpq_deploy.workspace.file_names import FLOAT_MODEL


def price_build(folder: Path, settings: PricingSettings, near: Sequence[Policy] = ()) -> CostTable:
    """Price the layers of a build's model at the pairs that run the bits of its indicators, and at the target's own: at
    FP8, where the indicators do not know it, for the bounds alone. ``near``: policies that are built too.

    Raises ModelError as `profiled_files`, and what `export.timing.pricing.price` raises.
    """
    files, placement, indicators, edges = profiled_files(folder)
    everything = frozenset(product(indicators.bits, indicators.bits))
    admitted = admitted_pairs(indicators)
    asked = frozenset.union(frozenset(), *(admitted.get(layer.name, everything) for layer in indicators.layers))
    pairs = pairs_of(placement, sorted(asked))
    bounds = [pair for pair in pairs if FP8 in pair and FP8 not in indicators.bits]
    model = files.path(FLOAT_MODEL)
    with progress("pricing") as report:
        return price(
            with_markers(load_model(model)),
            placement,
            [(edge.producer, edge.consumer) for edge in edges],
            [pair for pair in pairs if pair not in bounds],
            settings,
            model_sha256=sha256_of(model),
            report=report,
            bounds=bounds,
            near=[policy.pairs() for policy in near],
        )
