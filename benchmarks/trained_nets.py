"""Networks trained here on CIFAR-10 for some minutes, at w8a8 without training: what the files lose against float.

`trained_nets_made.py` has the networks: narrow ones of the libraries' own blocks. Each is trained once, kept in
``--out`` and taken up again by the next run, as are its builds (``--ptq``, 512 calibration images, for each target).
The exported files are executed by ONNX Runtime (TensorRT's as it is written, nothing fused) on the test images. Beside
them stands ``plain``: ONNX Runtime's own `quantize_static` of the float file, min/max ranges of the same number of
images, weights per channel, u8 activations with zero-points.

Keys: `nets` {name: {`parameters`, `float_top1`, `plain`, `onnxruntime`, `tensorrt`}}, the last three each with `top1`,
`points_lost`, `agreement` (top-1 with float, percent), `sqnr_db` (of the logits), ours with `correction`; `images`.

    python benchmarks/trained_nets.py --out DIR --json
    python benchmarks/trained_nets.py --smoke --json      a few images and steps: that it runs to its end
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from safetensors.torch import save_file
from shared_data import cifar10
from trained_nets_made import NETS, PREPROCESS, trained

from limpq_deploy.calibration.datasets import DataSet, Split, open_dataset
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime

HERE = Path(__file__).resolve().parent
TARGETS = ("onnxruntime", "tensorrt")
CALIBRATION = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one epoch each")
    parser.add_argument("--smoke", action="store_true", help="a few images, one epoch: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=NETS, action="append")
    parser.add_argument("--out", type=Path, help="keep images, weights and builds here, and go on from them")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        data, _ = cifar10(out, smoke=options.smoke)
        dataset = open_dataset(f"imagefolder:{data}", PREPROCESS)
        nets = {}
        for name in options.only or NETS:
            epochs = 1 if options.smoke or options.quick else NETS[name][2]
            nets[name] = measure(name, dataset, data, out / f"{name}-{epochs}", epochs)
            print(json.dumps({name: nets[name]}), file=sys.stderr)
    environment = read_environment()
    found = {
        "nets": nets,
        "images": len(dataset.split("test")),
        "cpu": environment.cpu,
        "python": environment.python,
        "libraries": environment.libraries,
    }
    print(json.dumps(found) if options.json else page(found))


def measure(name: str, dataset: DataSet, data: Path, out: Path, epochs: int) -> dict[str, Any]:
    """One network: trained, built for every target, compared with its float file."""
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "weights.safetensors"
    if not weights.exists():
        start = time.perf_counter()
        net = trained(name, dataset.split("train"), seed=0, epochs=epochs)
        partial = weights.with_suffix(".partial")
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, partial)
        partial.rename(weights)
        print(f"{name}: trained in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    for target in TARGETS:
        build(name, weights, data, target, out / target)
    file = out / TARGETS[0] / "baselines" / "float.onnx"
    test = dataset.split("test")
    exact, labels = answers(OnnxRuntime().load(file).run, test)
    plain = quantized_plainly(file, dataset.split("train"), out / "plain.onnx")
    row: dict[str, Any] = {
        "parameters": sum(value.numel() for value in NETS[name][0]().parameters()),
        "float_top1": top1(exact, labels),
        "plain": compared(answers(OnnxRuntime().load(plain).run, test)[0], exact, labels),
    }
    for target in TARGETS:
        model = out / target / "model.qdq.onnx"
        run = OnnxRuntime().load(model).run if target == "onnxruntime" else as_written(model)
        row[target] = compared(answers(run, test)[0], exact, labels)
        row[target]["correction"] = json.loads((out / target / "finetuned.json").read_text())["calibrated"]["chosen"]
    return row


def build(name: str, weights: Path, data: Path, target: str, out: Path) -> None:
    """The first stages of a PTQ build, to the exported file; finished ones are not run again."""
    command = [sys.executable, "-m", "limpq_deploy", "export", "--ptq", "--like", "w8a8", "--bits", "8"]
    command += [
        "--seed",
        "0",
        "--model",
        f"trained_nets_made:{name}",
        "--weights",
        str(weights),
        "--data",
        f"imagefolder:{data}",
    ]
    command += ["--target", target, "--calibration-images", str(CALIBRATION), "--out", str(out)]
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run(command, env=environment, stdout=sys.stderr, check=True)


class Reader(CalibrationDataReader):
    """Calibration images in batches."""

    def __init__(self, images_NCHW: NDArray[np.float32], name: str) -> None:
        self._batches = iter([{name: images_NCHW[at : at + 64]} for at in range(0, len(images_NCHW), 64)])

    def get_next(self) -> Any:
        return next(self._batches, None)


def quantized_plainly(model: Path, train: Split, out: Path) -> Path:
    """ONNX Runtime's own file of 8 bits."""
    images_NCHW, _ = train.load(train.order((0, 0))[:CALIBRATION])
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    (given,) = onnxruntime.InferenceSession(str(prepared)).get_inputs()
    quantize_static(
        str(prepared),
        str(out),
        Reader(images_NCHW, given.name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return out


def as_written(model: Path) -> Any:
    """Images -> logits, every operator executed alone."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options)
    (given,) = session.get_inputs()
    return lambda images_NCHW: session.run(None, {given.name: images_NCHW})[0]


def answers(run: Any, split: Split) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits [images, classes] and labels."""
    found = [(np.asarray(run(images_NCHW), np.float64), labels) for images_NCHW, labels in split.batches(250)]
    return np.concatenate([one for one, _ in found]), np.concatenate([labels for _, labels in found])


def compared(logits: NDArray[np.float64], exact: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Any]:
    noise = np.square(logits - exact).sum()
    return {
        "top1": top1(logits, labels),
        "points_lost": round(top1(exact, labels) - top1(logits, labels), 2),
        "agreement": round(100 * float((logits.argmax(1) == exact.argmax(1)).mean()), 2),
        "sqnr_db": round(float(10 * np.log10(np.square(exact).sum() / noise)), 2),
    }


def top1(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return round(100 * float((logits.argmax(1) == labels).mean()), 2)


def page(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| network | float | file | top-1 lost, points | agreement with float | SQNR of the logits |",
        "|" + "---|" * 6,
    ]
    for name, net in found["nets"].items():
        for file in (*TARGETS, "plain"):
            one = net[file]
            own = f"{name} | {net['float_top1']} %" if file == TARGETS[0] else " | "
            told = f"{one['points_lost']} | {one['agreement']} % | {one['sqnr_db']} dB"
            lines.append(f"| {own} | {file} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
