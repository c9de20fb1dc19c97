"""A real tritonserver on the loopback: answers, health, swaps, crashes. Skipped where LIMPQ_TRITON is not set."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.cli.main import main
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.ship.repository import load_serving
from limpq_deploy.export.ship.triton.config import ServingOptions
from limpq_deploy.serving.health import ask, check_health
from limpq_deploy.serving.server import ServerUnhealthy, connected, parse_address
from limpq_deploy.serving.ship import ship

CPU_TWIN = ServingOptions(backend="python")


def limpq_deploy(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def repository(write_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serving")
    ship(write_tiny(root / "bundle"), root / "models", CPU_TWIN)
    return root / "models"


@pytest.fixture(scope="module")
def server(triton_server: Any, repository: Path) -> Iterator[Any]:
    with triton_server(repository, repository.parent / "server.log") as running:
        running.start("tiny")
        yield running


@pytest.fixture
def urls(server: Any) -> tuple[str, str]:
    return f"http://127.0.0.1:{server.http}/tiny", f"grpc://127.0.0.1:{server.grpc}/tiny"


def test_an_address_names_scheme_host_port_and_model() -> None:
    address = parse_address("grpc://127.0.0.1:8001/tiny/versions/3")
    assert (address.scheme, address.host, address.model, address.version) == ("grpc", "127.0.0.1:8001", "tiny", "3")
    assert parse_address("http://127.0.0.1:8000", "tiny").model == "tiny"
    for wrong in ("https://x:1/m", "127.0.0.1:8000/m", "http://host/m", "http://127.0.0.1:8000"):
        with pytest.raises(SettingError):
            parse_address(wrong)


def test_a_server_that_is_not_there_is_unhealthy() -> None:
    done = limpq_deploy("health", "http://127.0.0.1:9/tiny", "--timeout", "1")
    assert done.exit_code == 1
    assert "http://127.0.0.1:9/tiny does not answer" in done.stderr


def test_the_server_listens_on_the_loopback_alone(server: Any) -> None:
    assert server.listening() <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert server.listening()


def test_answers_over_http_and_grpc_are_those_of_onnxruntime_bit_for_bit(
    urls: tuple[str, str], repository: Path
) -> None:
    images = np.random.default_rng(5).normal(0, 3, (256, 3, 4, 4)).astype(np.float32)
    expected = runtime_named("onnxruntime").load(repository / "tiny/1/model.onnx", threads=1).run(images)
    for url in urls:
        with connected(parse_address(url)) as connection:
            assert np.array_equal(ask(connection, images), expected)
            model = connection.describe()
            for number in range(32):
                one = connection.infer(model, images[number : number + 1])
                assert np.array_equal(one, expected[number : number + 1])


def test_health_asks_the_canaries(urls: tuple[str, str], repository: Path, write_tiny: Callable[..., Path]) -> None:
    for url in urls:
        done = limpq_deploy("health", url, "--bundle", repository / "tiny", "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert (found["images"], found["logits"], found["differing"]) == (16, 80, 0)
    assert limpq_deploy("health", urls[0]).exit_code == 0
    other = write_tiny(repository.parent / "other", 1)
    assert limpq_deploy("health", urls[0], "--bundle", other).exit_code == 3


def test_bench_times_the_server_beside_this_process(urls: tuple[str, str], repository: Path) -> None:
    done = limpq_deploy("bench", repository / "tiny/1/model.onnx", "--server", urls[1], "--seconds", "0.3", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["bit_equal"]
    assert [one["name"] for one in found["latency"]["series"]] == ["in process", "through the server"]
    assert found["throughput"]["failed"] == 0
    assert found["throughput"]["images"] > 0


def test_a_dead_stub_is_noticed_though_the_server_says_ready(
    server: Any, urls: tuple[str, str], repository: Path
) -> None:
    [stub] = server.stubs()
    os.kill(stub, signal.SIGKILL)
    with connected(parse_address(urls[0])) as connection:
        assert connection.is_ready()
    for url in urls:
        start = time.monotonic()
        with pytest.raises(ServerUnhealthy):
            check_health(url, bundle=repository / "tiny")
        assert time.monotonic() - start < 5
    unload(server)  # loading alone does nothing: no file changed
    load(server)
    assert check_health(urls[0], bundle=repository / "tiny").passed


def test_health_asks_the_canaries_of_the_version_that_answers(
    server: Any, urls: tuple[str, str], repository: Path, write_tiny: Callable[..., Path]
) -> None:
    loaded = load_serving(repository / "tiny").active
    new = ship(write_tiny(repository.parent / "newer", 1), repository, CPU_TWIN).version
    for url in urls:
        found = check_health(url, bundle=repository / "tiny")  # not loaded yet: no illness, but it is told
        assert found.passed
        assert (found.version, found.active, found.behind) == (str(loaded), str(new), True)
        done = limpq_deploy("health", url, "--bundle", repository / "tiny")
        assert f"note: version {loaded} answers" in done.stderr
    load(server)
    found = check_health(urls[1], bundle=repository / "tiny")
    assert (found.passed, found.version, found.behind) == (True, str(new), False)
    with pytest.raises(ServerUnhealthy):
        check_health(f"{urls[0]}/versions/{loaded}", bundle=repository / "tiny")  # asked for, and not served any more
    ship(write_tiny(repository.parent / "newest", 0), repository, CPU_TWIN, keep=1)
    with pytest.raises(ServerUnhealthy, match=f"serves version {new}, of which .* has no canaries"):
        check_health(urls[0], bundle=repository / "tiny")
    load(server)
    assert check_health(urls[0], bundle=repository / "tiny").passed


def test_swaps_under_load_fail_no_request_and_every_answer_is_of_one_version(
    server: Any, repository: Path, write_tiny: Callable[..., Path]
) -> None:
    bundles = [write_tiny(repository.parent / f"swap{seed}", seed) for seed in (0, 1)]
    images = np.random.default_rng(6).normal(0, 3, (1, 3, 4, 4)).astype(np.float32)
    expected = [runtime_named("onnxruntime").load(bundle / "model.onnx").run(images) for bundle in bundles]
    assert not np.array_equal(expected[0], expected[1])
    stop, answers, failures = threading.Event(), [0, 0], []

    def client() -> None:
        with connected(parse_address(f"grpc://127.0.0.1:{server.grpc}/tiny")) as connection:
            model = connection.describe()
            while not stop.is_set():
                try:
                    answers[_which(connection.infer(model, images), expected)] += 1
                except (ServerUnhealthy, ValueError) as error:
                    failures.append(str(error))

    clients = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    for one in clients:
        one.start()
    for number in (1, 0, 1, 0, 1):
        ship(bundles[number], repository, CPU_TWIN)
        load(server)
        with connected(parse_address(f"grpc://127.0.0.1:{server.grpc}/tiny")) as connection:
            assert np.array_equal(connection.infer(connection.describe(), images), expected[number])
    stop.set()
    for one in clients:
        one.join()
    assert not failures
    assert min(answers) > 0


def test_a_killed_server_comes_back_with_the_same_answers(server: Any, urls: tuple[str, str], repository: Path) -> None:
    server.kill()
    with pytest.raises(ServerUnhealthy):
        check_health(urls[0], bundle=repository / "tiny", timeout_s=1)
    server.start("tiny")
    assert check_health(urls[1], bundle=repository / "tiny").passed


@pytest.mark.parametrize("capabilities", [(), ("",), ("8.0", "9.0")], ids=["onnxruntime", "one plan", "two plans"])
def test_a_repository_for_a_backend_that_is_not_there_lacks_nothing_else(
    capabilities: tuple[str, ...], server: Any, repository: Path, write_tiny: Callable[..., Path]
) -> None:
    plan = repository.parent / "some.plan"
    plan.write_bytes(b"bytes that only a GPU server would read")
    options = ServingOptions(backend="tensorrt" if capabilities else "onnxruntime", queue_delay_us=100)
    bundle = write_tiny(repository.parent / f"other{len(capabilities)}")
    ship(bundle, repository, options, name="other", plans=dict.fromkeys(capabilities, plan))
    with pytest.raises(Exception, match=f"unable to find backend library for backend '{options.backend}'"):
        load(server, "other")


def load(server: Any, name: str = "tiny") -> None:
    """Tell the server to load what is in its repository now."""
    import tritonclient.grpc

    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        client.load_model(name)


def unload(server: Any) -> None:
    """Tell the server to unload, and wait until it has."""
    import tritonclient.grpc

    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        client.unload_model("tiny")
        deadline = time.monotonic() + 20
        while client.is_model_ready("tiny"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _which(answer: NDArray[np.float32], expected: list[NDArray[np.float32]]) -> int:
    for number, logits in enumerate(expected):
        if np.array_equal(answer, logits):
            return number
    raise ValueError(f"an answer of neither version: {answer}")
