"""Damaged files for every reader: each is refused in one clean sentence, or is as sound as a strict reader finds it."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from limpq_deploy.calibration.records import load_record

from .mutations import damaged, strict
from .tally import Tally, command, tried

Answer = tuple[str, str | None]

OFTEN = 12
"""How many times as often a reader is tried that takes no whole command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """``file``: what it reads, in the folder of the campaign; ``read``: tries it; ``json``: a strict reader judges too;
    ``share``: how often it is tried, beside the others."""

    name: str
    file: str
    read: Callable[[], Answer]
    json: bool = True
    share: int = 1


def campaign(build: Path, scratch: Path, *, cases: int, seed: int) -> Tally:
    """Damage files of a finished build and of other tools ``cases`` times, and have them read."""
    tally, rng = Tally("readers"), random.Random(seed)
    here = Path.cwd()
    os.chdir(scratch)
    try:
        readers = _readers(build)
        shares = [reader.share for reader in readers]
        for case in range(cases):
            reader = rng.choices(readers, shares)[0]
            path = Path(reader.file)
            before = path.read_bytes()
            data = damaged(before, rng)
            path.write_bytes(data)
            try:
                outcome, failure = reader.read()
            finally:
                path.write_bytes(before)
            if failure is None and outcome == "accepted" and reader.json and not strict(data):
                outcome, failure = "lenient", f"accepted {data[:200]!r}"
            tally.count(outcome, failure and f"{reader.name}, case {case} of seed {seed}: {failure}")
    finally:
        os.chdir(here)
    return tally


def _readers(build: Path) -> list[Reader]:
    from limpq_deploy.calibration.datasets.imagefolder import load_classes
    from limpq_deploy.export.graph.exported import ExportRecord
    from limpq_deploy.export.lint.check import LintReport
    from limpq_deploy.export.records.placement import Placement
    from limpq_deploy.export.reference.given_comparison import GivenComparison
    from limpq_deploy.export.reference.parity import ParityReport
    from limpq_deploy.export.runtimes.base import Engine
    from limpq_deploy.export.timing.report import LatencyReport
    from limpq_deploy.pipeline.config import load_config, make_config
    from limpq_deploy.policy.indicators import Indicators
    from limpq_deploy.policy.interchange.layer_sizes import load_shapes
    from limpq_deploy.policy.policy import Policy
    from limpq_deploy.train.checkpoints import CheckpointInfo, load_module
    from limpq_deploy.train.finetuned import FineTuned
    from limpq_deploy.verdict.record import Verdict
    from limpq_deploy.workspace.finished import BuildFiles

    records = {
        "indicators.json": Indicators,
        "policy.json": Policy,
        "placement.json": Placement,
        "parity.json": ParityReport,
        "latency.json": LatencyReport,
        "verdict.json": Verdict,
        "lint.json": LintReport,
        "engine.json": Engine,
        "export.json": ExportRecord,
        "given.json": GivenComparison,
        "finetuned.json": FineTuned,
    }
    for name in (*records, "config.json", "model.qdq.onnx", "joint.safetensors"):
        shutil.copy(build / name, name)
    for name in ("policy.json", "indicators.json", "latency.json"):
        shutil.copy(name, f"mine-{name}")
    shutil.copytree(build / "bundle", "bundle")
    shutil.copytree(build, "finished", ignore=lambda folder, names: [n for n in names if n.endswith(".safetensors")])
    _others()
    command("table", "policy.json", "--indicators", "indicators.json", "-o", "table.json")
    command("table", "policy.json", "--indicators", "indicators.json", "-o", "table.csv")

    def module() -> None:
        from torch import nn

        load_module(Path("joint.safetensors"), nn.Linear(1, 1), CheckpointInfo(kind="joint", model="resnet8"))

    def reader(name: str, file: str, *words: str, json: bool = True) -> Reader:
        return Reader(name=name, file=file, read=lambda: command(*words), json=json)

    def called(name: str, file: str, what: Callable[[], object], *, json: bool = True) -> Reader:
        return Reader(name=name, file=file, read=lambda: tried(what), json=json, share=OFTEN)

    sizes = ("--shapes", "shapes.json")
    mine = ("--indicators", "mine-indicators.json")
    return [
        *(
            called(f"load {file}", file, lambda cls=cls, file=file: load_record(cls, Path(file)))  # type: ignore[misc]
            for file, cls in records.items()
        ),
        called("classes", "classes.json", lambda: load_classes(Path("classes.json"))),
        called("config.json", "config.json", lambda: load_config(Path("config.json"))),
        called("build.toml", "build.toml", lambda: make_config({}, Path("build.toml")), json=False),
        called("shapes", "shapes.json", lambda: load_shapes(Path("shapes.json"))),
        called("stages.json", "finished/stages.json", lambda: BuildFiles(Path("finished")).path("policy.json")),
        called("checkpoint", "joint.safetensors", module, json=False),
        reader("search", "indicators.json", *["search", "indicators.json", "--like", "w4a4", "-o", "new.json"]),
        reader("sweep", "indicators.json", *["sweep", "indicators.json", "--gbitops", "0.01:0.02:2", "-o", "new.json"]),
        reader("diff", "policy.json", *["diff", "policy.json", "mine-policy.json"]),
        reader("diff, priced", "policy.json", "diff", "policy.json", "mine-policy.json", *mine),
        reader("table", "policy.json", "table", "policy.json", *mine, "-o", "new.csv"),
        reader("table from JSON", "table.json", "table", "table.json", *mine, "-o", "new.json"),
        reader("table from CSV", "table.csv", "table", "table.csv", *mine, "-o", "new.json", json=False),
        reader("import", "authors.pkl", *("import", "authors.pkl"), *sizes, *("-o", "new.json"), json=False),
        reader("bench merge", "latency.json", *["bench", "merge", "latency.json"]),
        reader("bench compare", "latency.json", *["bench", "compare", "latency.json", "mine-latency.json"]),
        reader("verify", "bundle/manifest.json", *["verify", "bundle", "--no-replay"]),
        reader("evaluate", "model.qdq.onnx", *["lint", "model.qdq.onnx", "--target", "reference"], json=False),
    ]


def _others() -> None:
    """Files of other tools: a class list, sizes of layers, the authors' pickle, settings."""
    Path("classes.json").write_text(json.dumps([f"class {number}" for number in range(10)]))
    layers = [{"name": f"layer{number}.conv", "macs": 1000 * number, "num_weights": 10} for number in range(1, 6)]
    Path("shapes.json").write_text(json.dumps({"format": "limpq.shapes/1", "model": "toy", "layers": layers}))
    scales = {layer["name"]: {"2": 0.5, "3": 0.25, "4": 0.125} for layer in layers}
    content = {"weight": scales, "act": scales, "layer_name": list(scales)}
    Path("authors.pkl").write_bytes(pickle.dumps(content))
    Path("build.toml").write_text(
        'like = "w4a4"\nbits = [2, 3, 4]\nmax-mib = 1.5\nseed = 3\npin = ["layer1.*=w4a4"]\n'
        "[training]\njoint_steps = 5\nfinetune-epochs = 1.0\n"
    )
