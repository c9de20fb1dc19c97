"""Which networks of the world are taken: each is looked at (`limpq-deploy inspect`) for both targets, in a process of
its own with bounds of time and memory, and, if it is not too large, quantized to 8 bits without training, exported,
checked and run (`zoo_export.py` says what is checked).

Lists: all classifiers of torchvision; one small model of each file of timm (`zoo_timm.txt`); torchvision's networks
that are no classifiers (``others``, named by `zoo_others.py`). ``--list FILE.txt``: one ``torchvision/NAME``,
``timm/NAME`` or ``module:factory`` a line instead. --quick: every eighth of each list, and exports of the
smallest; --smoke: one of each; --no-export: inspection alone.
``--resume FILE.jsonl`` writes a line for each network as it is done, and takes the lines that are there for done.

Keys: ``torchvision``, ``timm``, ``others``: {``models``, ``accepted`` (for both targets), ``by_target`` {target:
accepted}, ``tried`` (exports, of networks of at most --largest parameters), ``exported`` (of them, for both targets;
null where none was tried), ``refused`` {name: sentence}, ``not_exported`` {name: sentence}, ``files`` {name: {target:
`zoo_export.Checked`}},
``slowest`` [name, seconds of one inspection]}; ``targets``, ``environment``.

    python benchmarks/zoo.py --resume zoo.jsonl --json > zoo.json
    python benchmarks/zoo.py --quick --json
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo_page import page

from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.records.environment import read_environment

HERE = Path(__file__).parent
KINDS = ("torchvision", "timm", "others")
TARGETS = ("tensorrt", "onnxruntime")
SECONDS = 1800
"""That one network may take, on a loaded machine."""
GIB = 12
"""Address space of the process of one network."""
LARGEST, LARGEST_QUICK = 30.0, 5.0
"""Millions of parameters of a network that is exported, too."""


@dataclass
class Found:
    """Of one network: why it is not taken, by target (empty: taken); ``exported``: None where that was not tried.
    ``files``: what was found of its files, by target. ``for_export``: whether export was asked for."""

    name: str
    why: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    millions: float = 0.0
    integer_macs_share: float | None = None
    for_export: bool = False
    exported: bool | None = None
    export_error: str = ""
    files: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every eighth network")
    parser.add_argument("--smoke", action="store_true", help="one network of each list")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--list", type=Path, metavar="FILE.txt", help="networks, one a line")
    parser.add_argument("--export", action=argparse.BooleanOptionalAction, default=True, help="export, too")
    parser.add_argument("--largest", type=float, metavar="MILLIONS", help="parameters of a network that is exported")
    parser.add_argument("--resume", type=Path, metavar="FILE.jsonl", help="a line per network; go on where it ends")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes at once")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    largest = options.largest or (LARGEST_QUICK if options.quick else LARGEST)
    largest = largest if options.export else 0.0
    if options.one:
        resource.setrlimit(resource.RLIMIT_AS, (GIB << 30, GIB << 30))
        for found in look_at(options.one, largest):
            print(json.dumps(asdict(found)), flush=True)
        return
    known = done_before(options.resume, export=options.export)
    result: dict[str, Any] = {}
    for kind, names in lists(options.list).items():
        chosen = names[:1] if options.smoke else names[::8] if options.quick else names
        with ThreadPoolExecutor(options.workers) as pool:
            left = [name for name in chosen if name not in known]
            for found in pool.map(lambda name: in_a_process(name, largest), left):
                known[found.name] = found
                if options.resume is not None:
                    with options.resume.open("a", encoding="utf-8") as file:
                        print(json.dumps(asdict(found)), file=file, flush=True)
        result[kind] = summary([known[name] for name in chosen])
    result |= {"targets": list(TARGETS), "environment": to_dict(read_environment())}
    print(json.dumps(result) if options.json else page(result))


def lists(file: Path | None) -> dict[str, list[str]]:
    """Names by kind."""
    if file is not None:
        names = [line.strip() for line in file.read_text().splitlines() if line.strip() and line[0] != "#"]
        kinds = {name: name.partition("/")[0] if "/" in name.partition(":")[0] else "others" for name in names}
        return {kind: [name for name in names if kinds[name] == kind] for kind in KINDS}
    from zoo_others import OTHERS

    from limpq_deploy.model.zoo.torchvision import import_torchvision_models

    models = import_torchvision_models()
    return {
        "torchvision": [f"torchvision/{name}" for name in models.list_models(module=models)],
        "timm": (HERE / "zoo_timm.txt").read_text().split(),
        "others": [f"zoo_others:{name}" for name in OTHERS],
    }


def done_before(file: Path | None, *, export: bool) -> dict[str, Found]:
    """What the lines of a run say; those of inspection alone are done only where no export is asked for."""
    if file is None or not file.exists():
        return {}
    lines = [Found(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    return {one.name: one for one in lines if one.for_export or not export}


def in_a_process(name: str, largest: float) -> Found:
    command = [sys.executable, str(HERE / "zoo.py"), "--one", name]
    command += ["--largest", str(largest)] if largest else ["--no-export"]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            printed, said = child.communicate(timeout=SECONDS)
            stopped = (said.strip().splitlines() or [f"ended with code {child.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            child.kill()
            printed, stopped = child.communicate()[0], f"it was not done after {SECONDS} seconds"
    lines = printed.splitlines()
    found = Found(**json.loads(lines[-1])) if lines else Found(name, dict.fromkeys(TARGETS, (stopped,)))
    if lines and child.returncode:  # the inspection was done, its export was not
        found.exported, found.export_error = False, stopped
    found.for_export = largest > 0
    told = "; ".join(f"{target}: {len(why)} reasons" for target, why in found.why.items() if why) or "accepted"
    exported = {None: "", True: ", exported", False: f", not exported: {found.export_error}"}[found.exported]
    print(f"{name}: {told}{exported} ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)
    return found


def look_at(name: str, largest: float) -> Iterator[Found]:
    """Of one network, in this process: first without its export, then with it. ``largest``: millions of parameters of
    one that is exported."""
    from limpq_deploy.calibration.errors import LimpqError
    from limpq_deploy.pipeline.inspection import judged, looked_at

    sys.path.insert(0, str(HERE))
    found = Found(name)
    try:
        looked = looked_at(name)
        for target in TARGETS:
            one = judged(looked, target)
            found.why[target], found.seconds = one.why, one.seconds
            found.millions = sum(layer.num_weights for layer in one.layers) / 1e6
            found.integer_macs_share = one.integer_macs_share
    except LimpqError as error:
        found.why = dict.fromkeys(TARGETS, (str(error),))
    yield found
    if not any(found.why.values()) and found.millions <= largest:
        from zoo_export import export_all

        try:
            found.files = {target: asdict(checked) for target, checked in export_all(name, TARGETS).items()}
            found.export_error = "; ".join(_faults(found.files))
            found.exported = not found.export_error
        except Exception as error:  # what stops one network is told, and the others go on
            found.exported, found.export_error = False, f"{type(error).__name__}: {error}"
        yield found


def _faults(files: dict[str, Any]) -> Iterable[str]:
    return (f"{target}: {fault}" for target, checked in files.items() for fault in checked["faults"])


def summary(found: list[Found]) -> dict[str, Any]:
    slowest = max(found, key=lambda one: one.seconds, default=None)
    refused = {one.name: _told(one) for one in found if any(one.why.values())}
    tried = [one.exported for one in found if one.exported is not None]
    return {
        "models": len(found),
        "accepted": len(found) - len(refused),
        "by_target": {target: sum(not one.why.get(target) for one in found) for target in TARGETS},
        "tried": len(tried),
        "exported": sum(tried) if tried else None,
        "refused": refused,
        "not_exported": {one.name: one.export_error for one in found if one.exported is False},
        "files": {one.name: one.files for one in found if one.files},
        "slowest": [slowest.name, round(slowest.seconds, 2)] if slowest else None,
    }


def _told(one: Found) -> str:
    """Reasons once each, those of one target alone with its name."""
    common = set.intersection(*(set(why) for why in one.why.values()))
    told = [reason for reason in one.why[TARGETS[0]] if reason in common]
    told += [f"{target}: {reason}" for target, why in one.why.items() for reason in why if reason not in common]
    return "; ".join(told)


if __name__ == "__main__":
    main()
