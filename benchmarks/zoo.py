"""Which networks of the world are taken: each is looked at (`limpq-deploy inspect`) for both targets, in a process of
its own with a time limit, and, with --export, quantized to 8 bits without training, exported, checked and run.

Lists: all classifiers of torchvision; one small model of each file of timm (`zoo_timm.txt`); torchvision's networks
that are no classifiers (``others``, named by `zoo_others.py`). ``--list FILE.txt``: one ``torchvision/NAME``,
``timm/NAME`` or ``module:factory`` a line instead. --quick: every eighth of each list; --smoke: one of each.

Keys: ``torchvision``, ``timm``, ``others``: {``models``, ``accepted`` (for both targets), ``by_target`` {target:
accepted}, ``exported`` (for both targets, of those of at most 30 M parameters; null without --export), ``refused``
{name: sentence}, ``slowest`` [name, seconds of one inspection]}; ``targets``, ``environment``.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.records.environment import read_environment

HERE = Path(__file__).parent
KINDS = ("torchvision", "timm", "others")
TARGETS = ("tensorrt", "onnxruntime")
SECONDS = 300
"""That one network may take."""
MOST_PARAMETERS = 30_000_000
"""Of a network that is exported, too."""


@dataclass
class Found:
    """Of one network: why it is not taken, by target (empty: taken); None where it was not exported."""

    name: str
    why: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    exported: bool | None = None
    export_error: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every eighth network")
    parser.add_argument("--smoke", action="store_true", help="one network of each list")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--list", type=Path, metavar="FILE.txt", help="networks, one a line")
    parser.add_argument("--export", action="store_true", help="export small networks, too")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes at once")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(look_at(options.one, export=options.export)))
        return
    result: dict[str, Any] = {}
    for kind, names in lists(options.list).items():
        chosen = names[:1] if options.smoke else names[::8] if options.quick else names
        with ThreadPoolExecutor(options.workers) as pool:
            found = list(pool.map(lambda name: in_a_process(name, export=options.export), chosen))
        result[kind] = summary(found, exported=options.export)
    result |= {"targets": list(TARGETS), "environment": to_dict(read_environment())}
    print(json.dumps(result) if options.json else table(result))


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


def in_a_process(name: str, *, export: bool) -> Found:
    command = [sys.executable, str(HERE / "zoo.py"), "--one", name, *(["--export"] if export else [])]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        found = Found(name, dict.fromkeys(TARGETS, (f"it was not done after {SECONDS} seconds",)))
    else:
        lines = done.stdout.splitlines()
        if done.returncode or not lines:
            last = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
            found = Found(name, dict.fromkeys(TARGETS, (last,)))
        else:
            found = Found(**json.loads(lines[-1]))
    told = "; ".join(f"{target}: {len(why)} reasons" for target, why in found.why.items() if why) or "accepted"
    print(f"{name}: {told} ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)
    return found


def look_at(name: str, *, export: bool) -> dict[str, Any]:
    """Of one network, in this process."""
    from limpq_deploy.calibration.errors import LimpqError
    from limpq_deploy.pipeline.inspection import judged, looked_at

    sys.path.insert(0, str(HERE))
    found = Found(name)
    parameters = 0
    try:
        looked = looked_at(name)
        for target in TARGETS:
            one = judged(looked, target)
            parameters = sum(layer.num_weights for layer in one.layers)
            found.why[target], found.seconds = one.why, one.seconds
    except LimpqError as error:
        found.why = dict.fromkeys(TARGETS, (str(error),))
    if export and not any(found.why.values()) and parameters <= MOST_PARAMETERS:
        from zoo_export import export_all

        try:
            export_all(name, TARGETS)
            found.exported = True
        except Exception as error:  # what stops one network is told, and the others go on
            found.exported, found.export_error = False, f"{type(error).__name__}: {error}"
    return vars(found)


def summary(found: list[Found], *, exported: bool) -> dict[str, Any]:
    slowest = max(found, key=lambda one: one.seconds, default=None)
    refused = {one.name: _told(one) for one in found if any(one.why.values())}
    return {
        "models": len(found),
        "accepted": len(found) - len(refused),
        "by_target": {target: sum(not one.why.get(target) for one in found) for target in TARGETS},
        "exported": sum(one.exported is True for one in found) if exported else None,
        "refused": refused,
        "not_exported": {one.name: one.export_error for one in found if one.exported is False},
        "slowest": [slowest.name, round(slowest.seconds, 2)] if slowest else None,
    }


def _told(one: Found) -> str:
    """Reasons once each, those of one target alone with its name."""
    common = set.intersection(*(set(why) for why in one.why.values()))
    told = [reason for reason in one.why[TARGETS[0]] if reason in common]
    told += [f"{target}: {reason}" for target, why in one.why.items() for reason in why if reason not in common]
    return "; ".join(told)


def table(result: dict[str, Any]) -> str:
    lines = ["| networks | models | accepted | tensorrt | onnxruntime | exported |", "|---|---|---|---|---|---|"]
    refused: list[str] = []
    for kind in KINDS:
        one = result[kind]
        numbers = (one["models"], one["accepted"], *one["by_target"].values(), one["exported"])
        lines.append(f"| {kind} | " + " | ".join("-" if each is None else str(each) for each in numbers) + " |")
    lines += [
        "",
        *(
            f"{name}: {why}"
            for kind in ("torchvision", "timm", "others")
            for name, why in result[kind]["refused"].items()
        ),
    ]
    return "\n".join([*lines, "", *refused])


if __name__ == "__main__":
    main()
