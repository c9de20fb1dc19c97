"""A script that uses nothing but `limpq_deploy.NAME` reproduces the published policy, a build and a front."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import limpq_deploy

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs/howto/public_interface.py"
GOLDEN = ROOT / "tests/golden"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_script_reproduces_the_published_policy(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    indicators = GOLDEN / "resnet50_official_macs.indicators.json"
    done = subprocess.run([sys.executable, SCRIPT, indicators, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, wanted = (
        json.loads(path.read_text(encoding="utf-8"))["bits"]
        for path in (tmp_path / "policy.json", GOLDEN / "resnet50_w3a4_cr12.2.policy.json")
    )
    assert found == wanted
    assert (tmp_path / "front.svg").is_file()
    assert (tmp_path / "build" / "model.qdq.onnx").is_file()


def test_the_script_imports_nothing_else_of_ours() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"sys", "limpq_deploy"}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in nodes if ast.unparse(node.value) == "limpq_deploy"}
    assert used <= set(limpq_deploy.__all__)


def _python_blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        blocks = page.read_text(encoding="utf-8").split("```python\n")[1:]
        found += [(f"{page.name}-{number}", block.split("```")[0]) for number, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize(("where", "code"), _python_blocks(), ids=lambda text: text if len(text) < 60 else "")
def test_python_on_the_pages_is_python_and_calls_what_is_there(where: str, code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "limpq_deploy":
            assert node.attr in limpq_deploy.__all__, f"{where}: limpq_deploy.{node.attr}"


def test_the_adapters_pass_metrics_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B and MLflow are not installed here: modules that record take their place."""
    seen: list[tuple[Any, ...]] = []

    class Recording:
        def __getattr__(self, name: str) -> Any:
            return lambda *arguments, **words: seen.append((name, arguments, words))

    page = (ROOT / "docs/howto/follow-a-training.md").read_text(encoding="utf-8")
    for name, module in (("ToWandb", "wandb"), ("ToMlflow", "mlflow")):
        block = next(one for one in page.split("```python\n") if f"class {name}" in one).split("```")[0]
        only_class = block[: block.index("\n\n\nwandb.init" if module == "wandb" else "\n\n\nwith mlflow")]
        monkeypatch.setitem(sys.modules, module, Recording())
        names: dict[str, Any] = {"limpq_deploy": limpq_deploy}
        exec(only_class, names)
        names[name]().on_metric("fine-tuning/loss/w4a4", 0.5, 3)
    assert ("log", ({"fine-tuning/loss/w4a4": 0.5, "fine-tuning/loss/w4a4/step": 3},), {}) in seen
    assert ("log_metric", ("fine-tuning/loss/w4a4", 0.5), {"step": 3}) in seen
