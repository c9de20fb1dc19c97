"""The process of one build: ``python -m limpq_deploy.export.runtimes.tensorrt_rtx.child FOLDER``.

It reads `order.ORDER` and `order.MODEL` of the folder, writes `order.PLAN` and `order.RESULT`, and tells its progress
as lines of JSON, [done, total, note], on standard output. It ends when standard input does: with whoever started it.
"""

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TextIO

import onnx

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.engine_options import BatchRange
from limpq_deploy.export.runtimes.tensorrt.build import Compiler, build_plan
from limpq_deploy.export.runtimes.tensorrt.log import BuildLog
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import PRODUCT, installed_version, load_bindings
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import Capability, capabilities_named
from limpq_deploy.export.runtimes.tensorrt_rtx.order import BATCHES, MODEL, ORDER, PLAN, RESULT, Order, Result

if TYPE_CHECKING:
    import tensorrt_rtx_bindings as rtx


def main(folder: Path, channel: TextIO) -> None:
    """Build what the folder asks for. A file that is refused is a result too."""
    order = load_record(Order, folder / ORDER)
    chosen = capabilities_named(order.capabilities)
    log = BuildLog()

    def report(done: int, total: int, note: str) -> None:
        print(json.dumps([done, total, note]), file=channel, flush=True)

    compiler = Compiler(
        name=PRODUCT,
        export="export it for this target",
        remedy=lambda reason: _remedy(chosen),
        configure=lambda trt, config: _for_capabilities(trt, config, chosen),
    )
    model = onnx.load_model(folder / MODEL)
    tuned: dict[str, str] = {}
    try:
        trt = load_bindings()
        built = build_plan(trt, model, order.options, log=log, report=report, compiler=compiler)
        sizes = BatchRange.parse(built.settings["batch"])
        for batch in sorted({*BATCHES, sizes.best}):
            if batch == sizes.best:
                tuned[str(batch)] = log.layers
            elif sizes.least <= batch <= sizes.most:
                other, said = replace(order.options, batch=replace(sizes, best=batch)), BuildLog()
                build_plan(trt, model, other, log=said, report=report, compiler=compiler)
                tuned[str(batch)] = said.layers
    except LimpqError as error:
        failed = Result(version=installed_version() or "", lines=tuple(log.lines), failed=str(error))
        write_record(failed, folder / RESULT)
        return
    (folder / PLAN).write_bytes(built.plan)
    result = Result(
        version=str(trt.__version__),
        lines=tuple(log.lines),
        layers=log.layers,
        tuned=tuned,
        typing=built.typing,
        flags=built.flags,
        settings=built.settings,
        seconds=built.seconds,
    )
    write_record(result, folder / RESULT)


def _for_capabilities(trt: ModuleType, config: "rtx.IBuilderConfig", chosen: tuple[Capability, ...]) -> dict[str, str]:
    """Let the engine be for these capabilities."""
    config.num_compute_capabilities = len(chosen)
    for index, one in enumerate(chosen):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, one.enum), index):
            raise LimpqError(f"{PRODUCT} {trt.__version__} does not build for {one.name}; leave it out of --gpus")
    return {"compute_capabilities": ", ".join(one.number for one in chosen)}


def _remedy(chosen: tuple[Capability, ...]) -> str:
    if any(one.alone for one in chosen):
        return f"{chosen[0].name} admits fewer types than newer GPUs (no products in float32): leave it out of --gpus"
    return "leave the layer in float (16 bits in the policy), or report it with the log"


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent too, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no progress
    main(Path(sys.argv[1]), told)
