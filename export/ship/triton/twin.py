"""The CPU twin: model.py of Triton's python backend, which runs the shipped model.onnx on ONNX Runtime.

`ship` copies this file beside the model. It runs in the server's Python, which needs numpy and onnxruntime and nothing
of ours. It answers what the in-process runtime answers, bit for bit.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

EXACT_SUMS = "limpq.exact_sums"
VNNI = {"avx512_vnni", "avx_vnni"}


class TritonPythonModel:
    """What Triton's stub creates for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before it is loaded: it sends nothing to its makers
        import onnxruntime

        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self._input = config["input"][0]["name"]
        self._outputs = [output["name"] for output in config["output"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("limpq.threads", "0"))
        options.inter_op_num_threads = 1
        if parameters.get(EXACT_SUMS) == "1" and _may_saturate():
            options.add_session_config_entry("session.x64quantprecision", "1")
        model = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests; those that the server hands over together run as one batch."""
        import triton_python_backend_utils as triton

        images = [triton.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        try:
            together = images[0] if len(images) == 1 else np.concatenate(images)
            results = self._session.run(self._outputs, {self._input: together})
        except Exception as error:  # whatever stopped it is the answer to these requests; the server goes on
            failed = triton.TritonError(f"inference failed: {error}")
            return [triton.InferenceResponse(output_tensors=[], error=failed) for _ in requests]
        ends = np.cumsum([len(batch) for batch in images])[:-1]
        split = [np.split(result, ends) for result in results]
        return [
            triton.InferenceResponse(
                output_tensors=[
                    triton.Tensor(name, np.ascontiguousarray(part))
                    for name, part in zip(self._outputs, parts, strict=True)
                ]
            )
            for parts in zip(*split, strict=True)
        ]


def _may_saturate() -> bool:
    """Whether this CPU adds pairs of u8 * s8 products in 16 bits: x86 without VNNI, or not known."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    flags = [line for line in text.splitlines() if line.startswith("flags")]
    return bool(flags) and not VNNI & set(flags[0].split())
