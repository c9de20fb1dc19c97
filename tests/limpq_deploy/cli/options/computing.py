"""A process in which each library computes for a while behind the command line's own ``--threads``: ``python FILE
compute --threads N`` prints by library how many threads worked."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import click

from limpq_deploy.cli.main import main
from limpq_deploy.cli.options.threads import threads_option

CPU_SECONDS, SHARE = 0.3, 0.1
"""How long a library computes, and what share of that makes a thread one that worked."""


def seconds(process: int | str = "self") -> dict[str, float]:
    """CPU time of each thread of a process, by its number."""
    found = {}
    for folder in Path(f"/proc/{process}/task").iterdir():
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        found[folder.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def worked(compute: Callable[[], object]) -> int:
    """Threads that worked while this was called again and again."""
    compute()
    before, start = seconds(), time.process_time()
    while time.process_time() - start < CPU_SECONDS:
        compute()
    return sum(now - before.get(one, 0.0) > SHARE * CPU_SECONDS for one, now in seconds().items())


def of_onnxruntime(folder: Path) -> Callable[[], object]:
    """A matrix product in a session as commands make them."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 400, 400]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"], name="m")], "g", ends[:1], ends[1:])
    file = folder / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    session, image = OnnxRuntime().load(file), np.ones((1, 1, 400, 400), np.float32)
    return lambda: session.run(image)


@click.command()
@threads_option()
def compute() -> None:
    """Let one library after the other compute."""
    import numpy as np
    import scipy.linalg
    import torch
    from sklearn.cluster import KMeans

    from limpq_deploy.calibration.numbers.grid import QuantGrid
    from limpq_deploy.quant.lsq_kernel import ROW, kernel

    matrix = np.random.default_rng(0).standard_normal((500, 500))
    tensor, images = torch.from_numpy(matrix), torch.ones(8, 16, 64, 64)
    operator, filters = kernel(), torch.ones(32, 16, 3, 3)
    rows, scale, grid = torch.randn(40 * ROW), torch.tensor(0.3), QuantGrid(bits=4, signed=True)
    clusters = KMeans(8, n_init=1, max_iter=5, random_state=0)
    libraries: dict[str, Callable[[], object]] = {
        "NumPy": lambda: matrix @ matrix,
        "SciPy": lambda: scipy.linalg.lu_factor(matrix),
        "scikit-learn": lambda: clusters.fit(matrix),
        "torch": lambda: tensor @ tensor,
        "oneDNN": lambda: torch.nn.functional.conv2d(images, filters),
        "ONNX Runtime": of_onnxruntime(Path.cwd()),
    }
    if operator is not None:
        libraries["the compiled operator"] = lambda: operator.forward(rows, scale, grid, None)
    click.echo(json.dumps({name: worked(one) for name, one in libraries.items()}))


if __name__ == "__main__":
    main.add_command(compute)
    main()
