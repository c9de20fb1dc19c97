"""What the CPU can do with 8-bit products."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


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
    try:
        text = CPUINFO.read_text()
    except OSError:
        text = ""
    return parse_cpuinfo(text, platform.machine())


def parse_cpuinfo(text: str, machine: str) -> Cpu:
    """Read Linux's /proc/cpuinfo; an empty text (another system) leaves ``vnni`` unknown."""
    fields = [line.partition(":") for line in text.splitlines()]
    values = {key.strip(): value.strip() for key, _, value in reversed(fields)}
    flags = values.get("flags", "").split()
    vnni = bool({"avx512_vnni", "avx_vnni"} & set(flags)) if flags else None
    return Cpu(
        model=values.get("model name", machine), x86=machine.lower() in ("x86_64", "amd64", "i386", "i686"), vnni=vnni
    )
