"""Published peaks of GPUs: memory bandwidth and rates of tensor cores, dense, the higher one where accumulators differ.

Each row is of the vendor's datasheet or white paper that it names. Rates that are published with sparsity are halved.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPeaks:
    """``bandwidth`` in 1e9 bytes a second; ``rates`` by format, in 1e12 operations a second (a multiply-accumulate is
    two); what is not there has no tensor core. ``cache_mb``: L2, 1e6 bytes."""

    name: str
    bandwidth: float
    rates: Mapping[str, float]
    cache_mb: float
    source: str


def _peaks(name: str, bandwidth: float, cache_mb: float, source: str, **rates: float) -> GpuPeaks:
    return GpuPeaks(name=name, bandwidth=bandwidth, rates=rates, cache_mb=cache_mb, source=source)


AMPERE = "NVIDIA Ampere GA102 GPU Architecture, white paper"
ADA = "NVIDIA Ada GPU Architecture, white paper"
BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture, white paper"

GPUS = {
    one.name: one
    for one in (
        _peaks("RTX 3090", 936, 6, AMPERE, fp16=142, int8=284),
        _peaks("RTX 4090", 1008, 72, ADA, fp16=330.3, int8=660.6, fp8=660.6),
        _peaks("RTX 5090", 1792, 96, BLACKWELL, fp16=419, int8=838, fp8=838),
        _peaks("A10", 600, 6, "NVIDIA A10 datasheet", fp16=125, int8=250),
        _peaks("L4", 300, 48, "NVIDIA L4 datasheet (halved: with sparsity there)", fp16=121, int8=242.5, fp8=242.5),
        _peaks("A100", 2039, 40, "NVIDIA A100 datasheet, 80 GB SXM", fp16=312, int8=624),
        _peaks("H100", 3350, 50, "NVIDIA H100 datasheet, SXM (halved)", fp16=989.5, int8=1979, fp8=1979),
        _peaks("H200", 4800, 50, "NVIDIA H200 datasheet, SXM (halved)", fp16=989.5, int8=1979, fp8=1979),
        _peaks(
            "Jetson AGX Orin",
            204.8,
            4,
            "Jetson AGX Orin technical brief, 64 GB, GPU alone (halved)",
            fp16=42.5,
            int8=85,
        ),
    )
}
