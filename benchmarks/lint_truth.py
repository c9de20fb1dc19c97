"""The lint held against what really happened to files: confusion matrices, predicted by measured.

Needs the shared cases (LIMPQ_SHARED, or ../shared beside the checkout): ``cases/lint/*.onnx`` with ``truth.json``, what
NVIDIA's parser and builder (TensorRT-for-RTX 1.7.1) and ONNX Runtime 1.32 made of each.

Keys, for ``tensorrt`` (as version 11), ``onnxruntime`` (the installed one is asked) and ``onnxruntime_rules`` (rules
alone): ``matrix`` {predicted: {measured: files}}, ``wrong`` [[file, predicted, measured]], ``seconds``. Predicted:
``ok`` (nothing worse than slower), ``float``, ``differs``, ``refused``. Measured: ``integers``, ``float`` (a layer in
floats), ``differs`` (runs in integers and computes something else), ``refused``.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.lint.check import lint, lint_form, static_findings
from limpq_deploy.export.lint.finding import gravest
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT

OTHER_NUMBERS = ("o_axis1", "o_wscale_inf")
"""Files that ONNX Runtime runs in integers but not as written: 34 % and 28 % of the results differ."""


def predicted(path: Path, target: str) -> str:
    """The gravest thing that the lint says of a file; "unreadable" where it is not read."""
    try:
        if target == "onnxruntime_rules":
            model = load_model(path)
            worst = gravest(tuple(static_findings(model, ONNXRUNTIME, lint_form(model, ONNXRUNTIME))))
        elif target == "tensorrt":
            worst = gravest(lint(path, TENSORRT, version="11").findings)
        else:
            worst = gravest(lint(path, ONNXRUNTIME).findings)
    except ModelError:
        return "unreadable"
    return "ok" if worst in (None, "slower") else str(worst)


def measured(name: str, truth: dict[str, Any], target: str) -> str:
    """What happened to a file, in one word."""
    if target == "tensorrt":
        found = truth["tensorrt"]
        return "refused" if found["outcome"] != "builds" else "float" if found["other_layers"] else "integers"
    found = truth["onnxruntime"]
    if found["outcome"] != "runs":
        return "refused"
    return "float" if found["float"] else "differs" if name in OTHER_NUMBERS else "integers"


def compared(cases: Path, target: str) -> dict[str, Any]:
    """One confusion matrix."""
    truth: dict[str, dict[str, Any]] = json.loads((cases / "truth.json").read_text())
    started, pairs = time.perf_counter(), {}
    for name, found in sorted(truth.items()):
        pairs[name] = (predicted(cases / f"{name}.onnx", target), measured(name, found, target))
    matrix: dict[str, Counter[str]] = {}
    for said, was in pairs.values():
        matrix.setdefault(said, Counter())[was] += 1
    right = {("ok", "integers"), ("float", "float"), ("differs", "differs"), ("refused", "refused")}
    return {
        "matrix": {said: dict(row) for said, row in sorted(matrix.items())},
        "wrong": [[name, *pair] for name, pair in pairs.items() if pair not in right],
        "seconds": round(time.perf_counter() - started, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    for name in ("--quick", "--smoke"):
        parser.add_argument(name, action="store_true", help="no effect: it takes seconds")
    arguments = parser.parse_args()
    beside = Path(__file__).resolve().parents[2] / "shared"
    cases = Path(os.environ.get("LIMPQ_SHARED", beside)) / "cases/lint"
    if not cases.is_dir():
        sys.exit(f"no cases: set LIMPQ_SHARED to the shared folder ({cases} does not exist)")
    result = {target: compared(cases, target) for target in ("tensorrt", "onnxruntime", "onnxruntime_rules")}
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
