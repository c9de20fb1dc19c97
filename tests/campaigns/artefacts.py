"""One flipped bit in every file of a build, at many places: whoever reads the build is told, or reads what was written.

``cases`` are spread over the files: 20 flips in each where there are enough.
"""

import random
import shutil
from pathlib import Path

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.ship.verify import verify_bundle
from limpq_deploy.workspace.finished import BuildFiles
from limpq_deploy.workspace.workspace import STATE, BuildState

from .tally import Tally, unclean

UNREAD = (".lock",)
"""What no command reads but for its being there."""


def campaign(build: Path, scratch: Path, *, cases: int, seed: int) -> Tally:
    tally, rng = Tally("artefacts"), random.Random(seed)
    copy = Path(shutil.copytree(build, scratch / "out"))
    sound = {path.relative_to(copy): path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()}
    outputs = [name for name in _outputs(copy) if name != "bundle"]
    files = [name for name in sound if name.parts[0] != "training" and name.name not in UNREAD and sound[name]]
    for case in range(cases):
        name = files[case % len(files)]
        data = bytearray(sound[name])
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (copy / name).write_bytes(data)
        try:
            outcome, failure = _read(copy, name, outputs)
        finally:
            (copy / name).write_bytes(sound[name])
        tally.count(outcome, failure and f"{name}, case {case} of seed {seed}: {failure}")
    return tally


def _outputs(build: Path) -> list[str]:
    stages = load_record(BuildState, build / STATE).stages
    return [name for done in stages.values() for name in done.outputs]


def _read(build: Path, name: Path, outputs: list[str]) -> tuple[str, str | None]:
    try:
        if name.parts[0] == "bundle":
            verify_bundle(build / "bundle")
        files = BuildFiles(build)
        for one in outputs if name.name == STATE else [str(name)] if name.parts[0] != "bundle" else ["bundle"]:
            files.path(one)
    except LimpqError as error:
        return "refused", unclean(str(error))
    except Exception as error:
        return "traceback", repr(error)
    if name.name == STATE:
        return "harmless", None  # times, closing lines and names of inputs: nothing that is loaded
    return "in silence", "read as if it were whole"
