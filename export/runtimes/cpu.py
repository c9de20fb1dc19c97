"""What the CPU can do with 8-bit products."""

import platform
from collections.abc import Set
from dataclasses import dataclass
from functools import cache

from limpq_deploy.export.records.environment import read_cpuinfo

X86 = ("x86_64", "amd64", "i386", "i686")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """``vnni``: multiplies u8 by s8 and adds in 32 bits (AVX-VNNI or AVX512-VNNI); None where that is not known.

    An x86 CPU without it adds pairs of products in 16 bits, which saturate when weights use more than 7 bits.
    """

    model: str
    x86: bool
    vnni: bool | None

    @property
    def may_saturate(self) -> bool:
        """Whether u8 * s8 sums of full 8-bit weights can be wrong here."""
        return self.x86 and not self.vnni


@cache
def this_cpu() -> Cpu:
    """The CPU that this process runs on."""
    model, flags = read_cpuinfo()
    return describe_cpu(model, flags, platform.machine())


def describe_cpu(model: str, flags: Set[str], machine: str) -> Cpu:
    """What model, flags and machine type say; without flags (another system than Linux) ``vnni`` is unknown."""
    return Cpu(
        model=model or machine,
        x86=machine.lower() in X86,
        vnni=bool({"avx512_vnni", "avx_vnni"} & flags) if flags else None,
    )
