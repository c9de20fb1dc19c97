"""A running inference server asked over HTTP or gRPC (KServe v2, through tritonclient, the extra ``serve``)."""

import contextlib
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import LimpqError, MissingExtra, SettingError
from limpq_deploy.export.runtimes.base import in_rows


class ServerUnhealthy(LimpqError):
    """A server does not answer as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """``http://HOST:PORT/MODEL`` or ``grpc://HOST:PORT/MODEL``, with ``/versions/N`` where one is meant."""

    scheme: Literal["http", "grpc"]
    host: str
    model: str
    version: str = ""

    def __str__(self) -> str:
        version = f"/versions/{self.version}" if self.version else ""
        return f"{self.scheme}://{self.host}/{self.model}{version}"


def parse_address(url: str, model: str | None = None) -> Address:
    """An address from text; ``model`` is taken where the text names none. Raises SettingError."""
    found = re.fullmatch(r"(http|grpc)://([^/\s]+:\d+)(?:/([\w.-]+))?(?:/versions/(\d+))?/?", url)
    if found is None:
        raise SettingError(f"{url!r} is no address; expected http://HOST:PORT/MODEL or grpc://HOST:PORT/MODEL")
    scheme, host, name, version = found.groups()
    name = name or model
    if name is None:
        raise SettingError(f"{url!r} names no model; expected {scheme}://{host}/MODEL")
    return Address(scheme="http" if scheme == "http" else "grpc", host=host, model=name, version=version or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What the server says of its model: names (``outputs`` in its order), the images' shape (batch first where it
    takes batches; -1: any), largest batch (0: the model takes no batches). ``version``: the one that is asked, empty
    where the server names none. ``datatype``: of its images; pixels (UINT8) may be given as floats."""

    input: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    max_batch: int
    version: str = ""
    datatype: str = "FP32"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimes:
    """Mean milliseconds of one request inside the server, as the server counted them over ``requests`` of all clients:
    waiting for a free copy of the model, gathering inputs, the backend at work, handing out outputs."""

    requests: int
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float

    @property
    def total_ms(self) -> float:
        return self.queue_ms + self.input_ms + self.infer_ms + self.output_ms


STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


class Server:
    """One connection to one model. Not for several threads: each makes its own."""

    def __init__(self, address: Address, client: Any, library: ModuleType, timeout_s: float) -> None:
        self.address, self._client, self._library, self._timeout = address, client, library, timeout_s

    def is_ready(self) -> bool:
        """What the server itself says of the model, which is not enough."""
        with self._speaking():
            ready = self._client.is_model_ready(self.address.model, self.address.version)
        return bool(ready)

    def describe(self) -> ServedModel:
        """Names and shapes. Raises ServerUnhealthy."""
        with self._speaking():
            name, version = self.address.model, self.address.version
            if self.address.scheme == "http":
                found = self._client.get_model_metadata(name, version)
                config = self._client.get_model_config(name, version)
            else:
                found = self._client.get_model_metadata(name, version, as_json=True)
                config = self._client.get_model_config(name, version, as_json=True)["config"]
        if len(found["inputs"]) != 1:
            names = ", ".join(source["name"] for source in found["inputs"])
            raise ServerUnhealthy(f"{self.address} asks for {names or 'no inputs'}; expected a model of one: images")
        [source] = found["inputs"]
        return ServedModel(
            input=source["name"],
            shape=tuple(int(size) for size in source["shape"]),
            outputs=tuple(result["name"] for result in found["outputs"]),
            datatype=source.get("datatype", "FP32"),
            max_batch=int(config.get("max_batch_size", 0)),
            version=self.address.version or max(found.get("versions", ()), key=_as_number, default=""),
        )

    def counters(self) -> dict[str, int] | None:
        """Requests answered since the model was loaded, and nanoseconds of each of STAGES in sum; None from a server
        that does not keep statistics (an extension of KServe v2)."""
        name, version = self.address.model, self.address.version
        words = {} if self.address.scheme == "http" else {"as_json": True}
        try:
            with self._speaking():
                found = self._client.get_inference_statistics(name, version, **words)["model_stats"]
        except ServerUnhealthy:
            return None
        stats = [one["inference_stats"] for one in found]  # gRPC leaves zeros out and writes numbers as text
        counts = {stage: sum(int(one.get(stage, {}).get("ns", 0)) for one in stats) for stage in STAGES}
        return {"requests": sum(int(one.get("success", {}).get("count", 0)) for one in stats), **counts}

    def infer(self, model: ServedModel, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """All outputs of a batch [N, numbers], see `in_rows`. Raises ServerUnhealthy where none come."""
        return self.answer(model, images_NCHW)[0]

    def answer(self, model: ServedModel, images_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
        """All outputs of a batch, and the version that gave them (empty where the server does not say)."""
        given: NDArray[np.generic] = images_NCHW
        if model.datatype == "UINT8":
            from limpq_deploy.export.graph.pixel_input import as_pixels

            given = as_pixels(images_NCHW)
        with self._speaking():
            source = self._library.InferInput(model.input, list(given.shape), model.datatype)
            source.set_data_from_numpy(given)
            outputs = [self._library.InferRequestedOutput(name) for name in model.outputs]
            words = {"client_timeout": self._timeout} if self.address.scheme == "grpc" else {}
            answer = self._client.infer(
                self.address.model, [source], model_version=self.address.version, outputs=outputs, **words
            )
            results = {name: answer.as_numpy(name) for name in model.outputs}
            response = answer.get_response()
            version = response.get("model_version") if isinstance(response, dict) else response.model_version
        if missing := next((name for name, result in results.items() if result is None), None):
            raise ServerUnhealthy(f"{self.address} answered without {missing!r}; is another model served there?")
        return in_rows(tuple(results.values())), version or ""

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except LimpqError:
            raise
        except Exception as error:  # sockets, gevent, gRPC and the client's own exceptions have no common base
            what = " ".join(str(error).split())[:300] or type(error).__name__
            raise ServerUnhealthy(
                f"{self.address} does not answer ({what}); look at the server's log, unload and load the model, or "
                "start the server again"
            ) from error


def _as_number(version: str) -> int:
    return int(version) if version.isdigit() else 0


def times_between(before: dict[str, int] | None, after: dict[str, int] | None) -> ServerTimes | None:
    """Mean times of the requests between two readings of `Server.counters`; None where there were none, or where the
    model was loaded anew meanwhile and counts from zero."""
    if before is None or after is None or after["requests"] <= before["requests"]:
        return None
    requests = after["requests"] - before["requests"]
    queue, taken, infer, output = ((after[stage] - before[stage]) / requests / 1e6 for stage in STAGES)
    return ServerTimes(requests=requests, queue_ms=queue, input_ms=taken, infer_ms=infer, output_ms=output)


@contextlib.contextmanager
def connected(address: Address, timeout_s: float = 5.0) -> Iterator[Server]:
    """A connection, closed afterwards. ``timeout_s``: for each single answer. Raises MissingExtra."""
    try:
        library = importlib.import_module(f"tritonclient.{address.scheme}")
    except ImportError as error:
        raise MissingExtra(
            "speaking to a server needs tritonclient, which is not installed; run: pip install 'limpq-deploy[serve]'"
        ) from error
    words = {"connection_timeout": timeout_s, "network_timeout": timeout_s} if address.scheme == "http" else {}
    client = library.InferenceServerClient(address.host, **words)
    try:
        yield Server(address, client, library, timeout_s)
    finally:
        with contextlib.suppress(Exception):
            client.close()
