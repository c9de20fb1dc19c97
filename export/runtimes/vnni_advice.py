"""What a CPU without VNNI makes of full 8-bit weights, in sentences for those who choose bit-widths."""

from collections.abc import Collection

from limpq_deploy.export.runtimes.cpu import Cpu

EXACT_WEIGHT_BITS = 7
"""Widest weights whose products with 8-bit codes cannot saturate in 16 bits: 2 * 255 * 64 < 2^15."""


def saturation_note(cpu: Cpu) -> str | None:
    """For any build on this CPU; None where 8-bit weights are exact on the fast kernels."""
    if not cpu.may_saturate:
        return None
    return (
        f"{_why(cpu)}: 8-bit weights may saturate there, so they run on slower exact kernels; weights of at most "
        f"{EXACT_WEIGHT_BITS} bits are exact and faster: --pinned-bits {EXACT_WEIGHT_BITS}, and --bits up to "
        f"{EXACT_WEIGHT_BITS}."
    )


def saturation_advice(cpu: Cpu, *, bits: Collection[int], pinned_bits: int) -> str | None:
    """For a build with these searched and pinned bit-widths; None where none of its weights may saturate.

    It only says so: bit-widths are part of the configuration and never depend on the machine.
    """
    if not cpu.may_saturate:
        return None
    wide, offers = [], []
    if pinned_bits > EXACT_WEIGHT_BITS:
        wide.append("pinned layers")
        offers.append(f"--pinned-bits {EXACT_WEIGHT_BITS}")
    if any(width > EXACT_WEIGHT_BITS for width in bits):
        wide.append("searched layers")
        kept = sorted({*(width for width in bits if width <= EXACT_WEIGHT_BITS), EXACT_WEIGHT_BITS})
        offers.append(f"--bits {','.join(map(str, kept))}")
    if not wide:
        return None
    return (
        f"{_why(cpu)}: 8-bit weights ({' and '.join(wide)}) may saturate here and run on slower exact kernels; "
        f"{' '.join(offers)} would be exact and faster."
    )


def _why(cpu: Cpu) -> str:
    return "This CPU is not known to have VNNI" if cpu.vnni is None else "This CPU has no VNNI"
