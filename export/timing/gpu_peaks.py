"""Published peaks of GPUs: memory bandwidth and rates of tensor cores, dense, the higher one where accumulators differ.

``source`` names the document in which NVIDIA publishes a row. None of these could be opened when the rows were checked
(2026-11-29); each figure stood on a page that repeats them, or follows as said. Rates with sparsity are halved. FP16
rates are SMs x boost clock x operations of an SM in a clock (1024; A100, Orin 2048; Hopper 4096) within 0.3 %; L4's
published one lies 3 % below.

    RTX 3090   936 GB/s, FP16 142 (285 sparse): a review site's table. INT8: twice FP16, as all GA102 tensor cores
    RTX 4090   1008 GB/s, INT8 660.6 (1321 sparse): waredb.com. FP16 661, FP8 1321, both sparse: a review site's table
    RTX 5090   1792 GB/s, FP16 838 and FP8 1677, both sparse: spheron.network. INT8: as FP8, on no page that was found
    A10        600 GB/s: baseten.co. FP16 125: PyTorch Lightning's throughput.py, by the datasheet. INT8: twice FP16
    L4         300 GB/s, INT8 485 sparse: a reseller's table. FP16 242 and FP8 485, both sparse: an encyclopedia's
    A100       2039 GB/s: thundercompute.com. FP16 312, INT8 624: a university's computing centre (40 GB, equal rates)
    H100       FP16 1979, INT8 3958, both sparse: throughput.py, by the datasheet. 3350 GB/s, FP8: a table of prices
    H200       4800 GB/s, FP8 3958, FP16 1979, both sparse: ai-hpc.github.io. INT8: as H100, which has the same cores
    AGX Orin   INT8 170 sparse, of the GPU alone; FP16 half of it (16 HMMA against 32 IMMA): an excerpt of the brief.
               204.8 GB/s (256 bits of LPDDR5 at 6400 MT/s): on no page that was found
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPeaks:
    """``bandwidth`` in 1e9 bytes a second; ``rates`` by format, in 1e12 operations a second (a multiply-accumulate is
    two); what is not there has no tensor core."""

    name: str
    bandwidth: float
    rates: Mapping[str, float]
    source: str


def _peaks(name: str, bandwidth: float, source: str, **rates: float) -> GpuPeaks:
    return GpuPeaks(name=name, bandwidth=bandwidth, rates=rates, source=source)


AMPERE = "NVIDIA Ampere GA102 GPU Architecture, white paper"
ADA = "NVIDIA Ada GPU Architecture, white paper"
BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture, white paper"
ORIN = "Jetson AGX Orin technical brief, 64 GB, GPU alone (halved)"

GPUS = {
    one.name: one
    for one in (
        _peaks("RTX 3090", 936, AMPERE, fp16=142, int8=284),
        _peaks("RTX 4090", 1008, ADA, fp16=330.3, int8=660.6, fp8=660.6),
        _peaks("RTX 5090", 1792, BLACKWELL, fp16=419, int8=838, fp8=838),
        _peaks("A10", 600, "NVIDIA A10 datasheet", fp16=125, int8=250),
        _peaks("L4", 300, "NVIDIA L4 datasheet (halved: with sparsity there)", fp16=121, int8=242.5, fp8=242.5),
        _peaks("A100", 2039, "NVIDIA A100 datasheet, 80 GB SXM", fp16=312, int8=624),
        _peaks("H100", 3350, "NVIDIA H100 datasheet, SXM (halved)", fp16=989.5, int8=1979, fp8=1979),
        _peaks("H200", 4800, "NVIDIA H200 datasheet, SXM (halved)", fp16=989.5, int8=1979, fp8=1979),
        _peaks("Jetson AGX Orin", 204.8, ORIN, fp16=42.5, int8=85),
    )
}
