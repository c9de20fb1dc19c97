"""Campaigns of damaged, hostile and unlucky input: ``python -m tests.campaigns.run NAME [--cases N] [--seed S]``.

Prints one JSON line for each: cases, passed, failed. Exit code 1 where any failed; the failures go to stderr.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from . import artefacts, folders, kills, machines, onnx_files, readers, signed
from .a_build import make_build

CAMPAIGNS = {
    "readers": (readers.campaign, 20_000),
    "onnx": (onnx_files.campaign, 100),
    "artefacts": (artefacts.campaign, 800),
    "folders": (folders.campaign, 20),
    "machines": (machines.campaign, len(machines.MACHINES)),
    "signed": (signed.campaign, 280),
    "kills": (kills.campaign, 100),
}
"""By name: what runs it, and how many cases are tried where no number is given."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="campaigns", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CAMPAIGNS)}  [default: all]")
    parser.add_argument("--cases", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--build", type=Path, help="a folder to keep the build in between runs")
    asked = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LIMPQ_CACHE"] = str(Path(scratch) / "cache")
        build = make_build((asked.build or Path(scratch) / "build").absolute())
        for name in asked.names or CAMPAIGNS:
            campaign, cases = CAMPAIGNS[name]
            place = Path(scratch) / name
            place.mkdir()
            tally = campaign(build, place, cases=asked.cases or cases, seed=asked.seed)
            print(tally.line(), flush=True)
            for failure in tally.failures:
                print(failure, file=sys.stderr)
            failed += tally.failed
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
