"""What docs/serving.md and docs/kubernetes tell operators, done with a real tritonserver on the loopback.

Skipped where LIMPQ_TRITON is not set.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.export.ship.repository import Keys, roll_back
from limpq_deploy.export.ship.triton.config import ServingOptions
from limpq_deploy.serving.health import check_health
from limpq_deploy.serving.ship import ship

yaml = pytest.importorskip("yaml", reason="needs the extra limpq-deploy[test]")

ROOT = Path(__file__).resolve().parents[2]
CPU_TWIN = ServingOptions(backend="python")
NEWER = {"--http-max-input-size"}
"""Options of newer servers than the one that is tested with."""


@pytest.fixture
def signed(make_bundle: Callable[..., Path], keys: tuple[Path, Path], tmp_path: Path) -> Path:
    """A repository with the signed model `resnet8` that the examples speak of."""
    ship(make_bundle(), tmp_path / "models", CPU_TWIN, name="resnet8", keys=Keys(private=keys[0], public=keys[1]))
    return tmp_path / "models"


def container(file: str) -> Any:
    """The container that runs Triton in an example."""
    for document in yaml.safe_load_all((ROOT / "docs/kubernetes" / file).read_text()):
        spec = document.get("spec", {})
        pod = spec.get("template", {}).get("spec", spec)
        if "containers" in pod:
            return pod["containers"][0]
    raise AssertionError(f"{file} has no container")


@pytest.mark.parametrize("file", ["triton.yaml", "kserve.yaml"])
def test_the_start_line_and_the_probe_of_an_example_work(
    file: str,
    signed: Path,
    keys: tuple[Path, Path],
    triton_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    programs = f"{Path(os.environ['LIMPQ_TRITON']).resolve()}:{Path(sys.executable).parent}"
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    triton, mounted = container(file), "/mnt/models" if file == "kserve.yaml" else "/models"
    with triton_server(signed, tmp_path / "log") as server:

        def here(word: str) -> str:
            """An example's word, for this machine: its repository, key and ports."""
            word = word.replace(mounted, str(signed)).replace("/keys/release.key.pub", str(keys[1]))
            word = re.sub(r"(grpc://127.0.0.1):\d+", rf"\1:{server.grpc}", word)
            return re.sub(r"(http://127.0.0.1):\d+", rf"\1:{server.http}", word)

        [line] = triton["args"]
        assert "&& exec tritonserver" in line
        words = [word for word in here(line).split() if word.partition("=")[0] not in {*NEWER, "--http-port"}]
        command = [*triton["command"], " ".join([*words, *server.loopback, "--allow-gpu-metrics=false"])]
        server.run(command, "resnet8")
        probe = [here(word) for word in triton["livenessProbe"]["exec"]["command"]]
        assert subprocess.run(probe, check=False).returncode == 0
        if file == "kserve.yaml":
            return
        [stub] = server.stubs()
        os.kill(stub, signal.SIGKILL)
        assert status(f"http://127.0.0.1:{server.http}/v2/models/resnet8/ready") == 200
        assert subprocess.run(probe, check=False).returncode == 1
        server.kill()
        (signed / "resnet8/1/model.py").write_text("import os")
        with pytest.raises(RuntimeError, match=r"the server ended:[\s\S]*'1/model.py' has 9 bytes"):
            server.run(command, "resnet8")


def test_who_lacks_the_secret_cannot_load_models(signed: Path, triton_server: Any, tmp_path: Path) -> None:
    import tritonclient.grpc
    import tritonclient.http

    text = (ROOT / "docs/serving.md").read_text()
    options = [
        option.replace("SECRET", "s3cret")
        for option in re.findall(r"--(?:http-restricted-api|grpc-restricted-protocol)=\S+=SECRET", text)
    ]
    assert len(options) == 2
    with triton_server(signed, tmp_path / "log") as server:
        server.start("resnet8", options=options)
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
            with pytest.raises(Exception, match="restricted"):
                client.load_model("resnet8")
            client.load_model("resnet8", headers={"triton-grpc-protocol-admin-key": "s3cret"})
        with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.http}") as client:
            with pytest.raises(Exception, match="restricted"):
                client.unload_model("resnet8")
            client.load_model("resnet8", headers={"admin-key": "s3cret"})
        assert check_health(f"grpc://127.0.0.1:{server.grpc}", bundle=signed / "resnet8").passed


def test_a_version_that_does_not_load_leaves_the_old_one_up_and_a_rollback_mends_the_repository(
    signed: Path, keys: tuple[Path, Path], make_bundle: Callable[..., Path], triton_server: Any, tmp_path: Path
) -> None:
    both, options = Keys(private=keys[0], public=keys[1]), ["--http-restricted-api=model-repository:admin-key=s3cret"]
    shutil.copytree(signed / "resnet8", tmp_path / "old")
    with triton_server(signed, tmp_path / "log") as server:
        server.start("resnet8", options=options)
        url = f"http://127.0.0.1:{server.http}"

        def load() -> None:
            """What the page does with curl."""
            request = urllib.request.Request(f"{url}/v2/repository/models/resnet8/load", b"", {"admin-key": "s3cret"})
            urllib.request.urlopen(request, timeout=30).close()

        ship(make_bundle("new", 1), signed, ServingOptions(backend="onnxruntime"), name="resnet8", keys=both)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            load()  # this server has no such backend
        assert check_health(f"{url}/resnet8", bundle=tmp_path / "old").passed
        roll_back(signed / "resnet8", 1, keys=both)
        load()
        assert check_health(f"{url}/resnet8", bundle=signed / "resnet8", public_key=keys[1]).passed


def test_the_server_has_the_metrics_that_the_page_names(signed: Path, triton_server: Any, tmp_path: Path) -> None:
    named = set(re.findall(r"`(nv_\w+)", (ROOT / "docs/serving.md").read_text()))
    assert "nv_inference_request_failure" in named
    with triton_server(signed, tmp_path / "log") as server:
        server.start("resnet8")
        check_health(f"grpc://127.0.0.1:{server.grpc}", bundle=signed / "resnet8")
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = dict(re.findall(r'^(\w+)\{model="resnet8",version="1"\} (\S+)$', text, re.MULTILINE))
        assert named <= set(re.findall(r"^(nv_\w+)", text, re.MULTILINE))
        assert float(found["nv_inference_count"]) >= 16  # the canaries


def test_options_on_the_page_and_in_the_examples_are_the_servers(triton_server: Any) -> None:
    text = "".join(
        file.read_text() for file in (ROOT / "docs/serving.md", *sorted((ROOT / "docs/kubernetes").glob("*.yaml")))
    )
    started = re.findall(r"tritonserver (--[\s\S]+?)(?:\n\n|```|\n *ports| > )", text)
    used = {word.partition("=")[0] for line in started for word in line.split() if word.startswith("--")}
    program = Path(os.environ["LIMPQ_TRITON"]) / "tritonserver"
    known = set(re.findall(r"--[a-z-]+", subprocess.run([program, "--help"], capture_output=True, text=True).stderr))
    assert "--model-control-mode" in used
    assert used - known <= NEWER


def status(url: str) -> int:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return int(answer.status)
    return 0
