"""What a TensorRT builder says: its messages, kept whole, and its progress."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from limpq_deploy.calibration.plain_text import plain

if TYPE_CHECKING:
    import tensorrt as trt

Report = Callable[[int, int, str], None]
"""Called while a build goes on: steps done, steps in all, and what is being done."""


LONGEST = 4000
"""Characters of one message in a log."""

LAYERS = "Layers:"
"""How the message begins that lists all layers of an engine."""


class BuildLog:
    """Messages in order, each with its severity ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO"); verbose ones are left
    out, but for the last list of an engine's layers, which ``layers`` keeps as it came."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.layers = ""

    def add(self, severity: str, message: str) -> None:
        if severity == "VERBOSE" and message.startswith(LAYERS):
            self.layers = message
        if severity != "VERBOSE":
            self.lines.append((severity, " ".join(message.split())))

    def of(self, *severities: str) -> tuple[str, ...]:
        """Different messages of these severities, in order of first appearance."""
        return tuple(dict.fromkeys(message for severity, message in self.lines if severity in severities))

    @property
    def last_error(self) -> str | None:
        """The last error that says something: behind the reason the builder of 8 logs that it has no engine
        ("Assertion engine != nullptr failed", NVIDIA/TensorRT#2719)."""
        errors = self.of("ERROR", "INTERNAL_ERROR")
        telling = [error for error in errors if "buildSerializedNetwork" not in error]
        return next(reversed(telling or list(errors)), None)

    def text(self) -> str:
        return "".join(f"[{severity}] {plain(message, LONGEST)}\n" for severity, message in self.lines)


def make_logger(trt: ModuleType, log: BuildLog) -> "trt.ILogger":
    """TensorRT's logger that writes into ``log``. TensorRT keeps a pointer to it: hold it as long as what it was given
    to."""

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(str(severity).rpartition(".")[2], message)

    return Logger()


def make_monitor(trt: ModuleType, report: Report) -> "trt.IProgressMonitor | None":
    """Progress of a build, or None before TensorRT 10, which tells none.

    An exception in it (Ctrl-C lands here) stops the build; `stopped_by` gives it afterwards, for it must not cross the
    library.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, int] = {}
            self.stopped_by: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                report(step + 1, self.phases.get(phase_name, step + 1), phase_name)
            except BaseException as error:
                self.stopped_by = error
            return self.stopped_by is None

    return Monitor()


def parser_errors(parser: "trt.OnnxParser") -> Iterator[str]:
    """What the parser refused, one sentence each, with the operator's place in the file."""
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        named = ""
        if hasattr(error, "node_name") and hasattr(error, "node_operator"):
            named = f", {error.node_operator()} {error.node_name()!r}"
        yield f"{error.desc()} (node {error.node()} of the file{named})"
