"""What of the program a stage's digest is over: edited copies of its sources, other versions of libraries."""

import importlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

from limpq_deploy.pipeline.stages.choose import GIVEN_POLICY
from limpq_deploy.pipeline.stages.given import GIVEN_MODEL
from limpq_deploy.pipeline.stages.learn import FINETUNED_MODEL, FINETUNED_UNIFORM, FLOAT_MODEL
from limpq_deploy.pipeline.stages.listed import STAGES
from limpq_deploy.pipeline.stages.ptq import CALIBRATED_MODEL, CALIBRATED_UNIFORM, RANGES_ALONE
from limpq_deploy.workspace import sources
from limpq_deploy.workspace.sources import Code, code_of, user_sources

LIKE_OTHERS = (FINETUNED_UNIFORM, CALIBRATED_UNIFORM, GIVEN_POLICY, GIVEN_MODEL)
OTHER_NAMES = {RANGES_ALONE: "ranges", CALIBRATED_MODEL: "calibration"}
RUNS = {OTHER_NAMES.get(stage) or stage.name: stage.run for stage in STAGES if stage not in LIKE_OTHERS}
LEARN = {"float", "indicators", "ranges", "finetune", "calibration"}
CACHES = ("_code_of", "_hub", "_imports", "_contents", "_hash_of", "_version")


def forget() -> None:
    for name in CACHES:
        getattr(sources, name).cache_clear()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The program's sources in a folder of their own, without links: as a wheel installs them."""
    root = tmp_path / "limpq_deploy"
    shutil.copytree(sources.ROOT, root, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    monkeypatch.setattr(sources, "ROOT", root)
    forget()
    yield root
    forget()


def codes() -> dict[str, Code]:
    forget()
    return {name: code_of(run) for name, run in RUNS.items()}


def edited(root: Path, *files: str) -> list[set[str]]:
    """By file: the stages whose sources are others once a line is added to it."""
    before, found = codes(), []
    for file in files:
        path = root / file
        text = path.read_text()
        path.write_text(text + "\n")
        now = codes()
        path.write_text(text)
        found.append({name for name in RUNS if now[name].sources != before[name].sources})
    return found


def test_sources_are_read_alike_from_a_checkout_and_from_an_installed_copy(copied: Path) -> None:
    installed = codes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "ROOT", Path(sources.__file__).parents[1])
        assert codes() == installed


def test_what_is_found_by_its_name_counts_as_what_is_imported(copied: Path) -> None:
    dialect, rules, session = edited(
        copied, "export/qdq/tensorrt.py", "export/lint/onnxruntime.py", "export/runtimes/onnxruntime/session.py"
    )
    assert "export" in dialect & rules
    assert {"engine", "accuracy", "latency"} <= session
    assert not (dialect | rules | session) & {"float", "finetune"}


def test_an_edit_repeats_what_runs_the_edited_code_and_nothing_before_it(copied: Path) -> None:
    page, style, judge, cli = edited(
        copied, "report/page.py", "report/report.css", "verdict/sampled_checks.py", "cli/options/shared.py"
    )
    assert page == style == {"report"}
    assert judge == {"verdict"}
    assert not cli
    finetune, kernel, grid = edited(copied, "train/finetune.py", "quant/lsq_kernel.c", "calibration/numbers/grid.py")
    assert {"finetune", "calibration"} <= finetune
    assert not finetune & {"float", "export", "engine", "latency"}
    assert {"indicators", "finetune"} <= kernel
    assert not kernel & {"engine", "latency", "accuracy"}
    assert grid >= LEARN
    dialect, runtime, solver = edited(
        copied, "export/qdq/onnxruntime.py", "export/runtimes/onnxruntime/session.py", "policy/solver/labels.py"
    )
    assert {"export", "profile", "study"} <= dialect
    assert not dialect & LEARN
    assert {"engine", "parity", "accuracy", "latency", "bundle"} <= runtime
    assert not runtime & LEARN
    assert "search" in solver
    assert not solver & {"float", "finetune", "export", "engine", "parity", "accuracy", "latency"}
    data, model, stage, subject = edited(
        copied,
        "calibration/datasets/imagefolder.py",
        "model/zoo/resnet_cifar.py",
        "pipeline/stages/measure.py",
        "pipeline/context.py",
    )
    assert LEARN | {"accuracy", "parity"} <= data
    assert LEARN | {"export"} <= model
    assert not stage & LEARN
    assert {"parity", "accuracy", "latency"} <= stage
    assert subject == {*RUNS} - {"audit"} or subject == {*RUNS}


def test_libraries_are_those_whose_arithmetic_a_stage_uses() -> None:
    found = {name: code.libraries.keys() for name, code in codes().items()}
    assert all({"torch", "numpy"} <= found[name] for name in LEARN)
    assert all("onnxruntime" not in found[name] for name in LEARN)
    assert {"torch", "onnx", "onnxscript", "numpy"} <= found["export"]
    assert {"onnxruntime", "numpy", "onnx"} <= found["latency"]
    assert "torch" not in found["latency"]
    assert {"torch", "onnxruntime", "numpy"} <= found["parity"]
    assert "pulp" in found["search"]
    assert all("limpq_deploy" in one for one in found.values())


def test_another_version_of_a_library_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = codes()
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == "onnxruntime" else real(name))
    now = codes()
    monkeypatch.undo()
    forget()
    other = {name for name in RUNS if now[name].libraries != before[name].libraries}
    assert other >= {"engine", "parity", "accuracy", "latency", "study", "bundle"}
    assert not other & LEARN


def test_sources_edited_while_a_build_runs_are_not_taken_for_those_that_run(copied: Path) -> None:
    first = code_of(FLOAT_MODEL.run)
    (copied / "train/finetune.py").write_text("raise SystemExit\n")
    later = code_of(FINETUNED_MODEL.run)  # a stage that begins hours later
    forget()
    assert code_of(FLOAT_MODEL.run) == first
    assert code_of(FINETUNED_MODEL.run) != later


def test_all_stages_are_read_in_a_moment() -> None:
    codes()
    start = time.process_time()
    codes()
    assert time.process_time() - start < 1.0  # 0.15 s on an idle machine


def test_code_of_others_is_known_by_the_version_alone() -> None:
    assert code_of(forget).modules == ()


def factory_of(folder: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == module.split(".")[0]]:
        monkeypatch.delitem(sys.modules, name)
    found: Callable[..., object] = importlib.import_module(module).make
    return found


PROJECT = {
    "theirs/__init__.py": "",
    "theirs/blocks/__init__.py": "from .conv import conv\n",
    "theirs/blocks/conv.py": "import shared_parts\n\ndef conv():\n    return shared_parts.PART\n",
    "theirs/nets.py": "import json\nfrom .blocks import conv\n\ndef make():\n    return conv()\n",
    "theirs/unused.py": "X = 1\n",
    "shared_parts.py": "PART = 1\n",
}


@pytest.mark.parametrize("edit", [name for name in PROJECT if name != "theirs/unused.py"])
def test_what_a_users_factory_imports_of_its_own_project_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    (tmp_path / "theirs/blocks").mkdir(parents=True)
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    make = factory_of(tmp_path, "theirs.nets", monkeypatch)
    before = user_sources(make)
    (tmp_path / "theirs/unused.py").write_text("X = 2\n")
    assert user_sources(make) == before
    with (tmp_path / edit).open("a") as stream:
        stream.write("# edited\n")
    assert user_sources(make) != before


def test_a_factory_in_a_single_file_counts_with_the_files_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lone_net.py").write_text("from lone_parts import PART\n\ndef make():\n    return PART\n")
    (tmp_path / "lone_parts.py").write_text("PART = 1\n")
    make = factory_of(tmp_path, "lone_net", monkeypatch)
    before = user_sources(make)
    (tmp_path / "lone_parts.py").write_text("PART = 2\n")
    assert user_sources(make) != before
