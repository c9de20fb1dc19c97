"""What is seen of a training while it runs: the progress line, JSON lines, TensorBoard."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.errors import MissingExtra, OutputError, RecordError
from limpq_deploy.calibration.json_text import parse_json
from limpq_deploy.callbacks import metric
from limpq_deploy.progress import Report
from limpq_deploy.train.execution import Execution

LINES = 2000
"""A log has about this many lines, however long the training."""

SMOOTHED = 20
"""Steps over which the progress line averages."""


def read_losses(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Of each pass of a logged training, (step, loss) in order; what is no line of a log is left out, and a missing
    file is an empty one."""
    found: dict[str, list[tuple[int, float]]] = {}
    if not path.is_file():
        return found
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = parse_json(text, "a line")
            for name, loss in line["loss"].items():
                found.setdefault(str(name), []).append((int(line["step"]), float(loss)))
        except (RecordError, KeyError, TypeError, ValueError, AttributeError):
            continue
    return found


class Watch:
    """Tells the losses and accuracies of each pass, on training images as augmented."""

    def __init__(self, names: Sequence[str], steps: int, report: Report, execution: Execution, per_epoch: int) -> None:
        """``names``: of the passes. ``per_epoch``: steps of an epoch."""
        self._names, self._steps, self._report, self._per_epoch = tuple(names), steps, report, per_epoch
        self._every = max(1, steps // LINES)
        self._recent: list[_Seen] = []
        self._unwritten: list[_Seen] = []
        self._began = time.perf_counter()
        self._log = _Log(execution.log) if execution.log is not None else None
        self._board = _board(execution.tensorboard) if execution.tensorboard is not None else None

    def resumed(self, step: int) -> None:
        """Goes on after ``step``: what a log says of later steps is no longer true."""
        if self._log is not None:
            self._log.forget_after(step)
        self._report(step, self._steps, f"resumed at step {step}")

    def step(self, step: int, losses: Sequence[float], correct: Sequence[int] | None, images: int, rate: float) -> None:
        """After ``step`` steps: mean loss and images classified rightly of each pass (None: the task cannot tell),
        images of the step."""
        now = time.perf_counter()
        seen = _Seen(losses=tuple(losses), correct=tuple(correct or ()), images=images, seconds=now - self._began)
        self._began = now
        self._recent = [*self._recent[1 - SMOOTHED :], seen]
        self._unwritten.append(seen)
        self._report(step, self._steps, self._note())
        if step % self._every == 0 or step == self._steps:
            self._write(step, rate)
            self._unwritten = []

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()

    def _note(self) -> str:
        total = _Seen.together(self._recent)
        shares = [100 * right / total.images for right in total.correct]
        accuracy = (
            f"{shares[0]:.0f} %"
            if len(shares) == 1
            else " ".join(f"{name}:{share:.0f}" for name, share in zip(self._names, shares, strict=False)) + " %"
        )
        loss = sum(total.losses) / len(total.losses)
        said = f"loss {loss:.3f}  {total.images / max(total.seconds, 1e-9):.0f} images/s"
        return f"{said}  top-1 {accuracy}" if shares else said

    def _write(self, step: int, rate: float) -> None:
        total = _Seen.together(self._unwritten)
        top1 = [round(100 * right / total.images, 2) for right in total.correct]
        losses = [round(loss, 6) for loss in total.losses]
        for name, loss in zip(self._names, losses, strict=True):
            metric(f"loss/{name}", loss, step)
        for name, share in zip(self._names, top1, strict=False):
            metric(f"top1/{name}", share, step)
        if self._log is not None:
            self._log.write(
                {
                    "step": step,
                    "epoch": round(step / self._per_epoch, 3),
                    "loss": dict(zip(self._names, losses, strict=True)),
                    **({"top1": dict(zip(self._names, top1, strict=True))} if top1 else {}),
                    "rate": round(rate, 6),
                    "images_per_second": round(total.images / max(total.seconds, 1e-9), 1),
                }
            )
        if self._board is not None:
            for name, loss in zip(self._names, losses, strict=True):
                self._board.add_scalar(f"loss/{name}", loss, step)
            for name, share in zip(self._names, top1, strict=False):
                self._board.add_scalar(f"top1/{name}", share, step)
            self._board.add_scalar("rate", rate, step)


class _Seen:
    """Losses and right answers of passes over some images, and the seconds they took."""

    __slots__ = ("correct", "images", "losses", "seconds")

    def __init__(self, *, losses: tuple[float, ...], correct: tuple[int, ...], images: int, seconds: float) -> None:
        self.losses, self.correct, self.images, self.seconds = losses, correct, images, seconds

    @classmethod
    def together(cls, steps: "Sequence[_Seen]") -> "_Seen":
        """Mean losses and sums of the rest."""
        return cls(
            losses=tuple(sum(column) / len(steps) for column in zip(*(seen.losses for seen in steps), strict=True)),
            correct=tuple(map(sum, zip(*(seen.correct for seen in steps), strict=True))),
            images=sum(seen.images for seen in steps),
            seconds=sum(seen.seconds for seen in steps),
        )


class _Log:
    """JSON lines, each flushed: a reader may follow."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            self._stream = os.fdopen(descriptor, "r+", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise OutputError(f"cannot write the log {path}: {error.strerror}; choose another folder") from error
        self._keep = 0

    def forget_after(self, step: int) -> None:
        """Keep the lines of the steps up to ``step``, and no half line that a killed training left."""
        kept = []
        for line in self._stream:
            try:
                whole = line.endswith("\n") and parse_json(line, "a line")["step"] <= step
            except (RecordError, KeyError, TypeError):
                whole = False
            if not whole:
                break
            kept.append(line)
        self._keep = len("".join(kept).encode(errors="surrogateescape"))

    def write(self, line: dict[str, Any]) -> None:
        if self._keep >= 0:  # nothing is cut off before there is something to say
            self._stream.seek(self._keep)
            self._stream.truncate()
            self._keep = -1
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()
        if os.path.getsize(self._path) == 0:
            self._path.unlink()


def require_tensorboard() -> None:
    """Raise MissingExtra where event files cannot be written."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "event files for TensorBoard need tensorboard, which is not installed; run: pip install tensorboard"
        ) from error


def _board(folder: Path) -> Any:
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
