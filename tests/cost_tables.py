"""Tables of prices in made-up figures."""

from collections.abc import Mapping

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.cost_table import CostTable, Moved, PartCost


def cost_table(macs: Mapping[str, int], moved: Mapping[BitPair, Mapping[str, float]], *, batch: int) -> CostTable:
    """Layers with their MACs, which move so many bytes of activations in one call; no layer changes what its neighbour
    moves."""
    return CostTable(
        model="net",
        target="tensorrt_rtx",
        compiler="TensorRT-RTX 1.7",
        capabilities=("sm89",),
        batch=batch,
        network="",
        model_sha256="",
        units={name: name for name in macs},
        macs=dict(macs),
        parts=tuple(
            PartCost(layer=layer, weight_bits=pair[0], act_bits=pair[1], moved=Moved(activations=size))
            for pair, sizes in moved.items()
            for layer, size in sizes.items()
        ),
    )
