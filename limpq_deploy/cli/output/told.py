"""What commands tell of long work, while it goes on and when it is stopped."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from limpq_deploy.calibration.plain_text import plain, plain_record
from limpq_deploy.callbacks import Callback
from limpq_deploy.cli.output.answers import aside
from limpq_deploy.cli.output.exit_codes import INTERRUPTED, TERMINATED
from limpq_deploy.termination import Terminated

LONGEST_SENTENCE = 4000
"""Characters of a sentence; what it cites of files is cut far shorter where it is made."""


class Told(Callback):
    """Stages and notes on stderr; steps are a bar of their own."""

    def on_note(self, sentence: str) -> None:
        aside(f"note: {plain(sentence, LONGEST_SENTENCE)}")

    def on_stage(self, stage: Any) -> None:
        from limpq_deploy.cli.output.tables import stage_line

        aside(stage_line(plain_record(stage, LONGEST_SENTENCE)))


@contextlib.contextmanager
def stages_kept() -> Iterator[None]:
    """Around the stages of a build: where they are stopped, it says how they go on, and exits with the code of that."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, Terminated) as end:
        code = end.code if isinstance(end, SystemExit) else TERMINATED if isinstance(end, Terminated) else INTERRUPTED
        if code in (INTERRUPTED, TERMINATED):
            by = "" if code == INTERRUPTED else " by SIGTERM"
            aside(f"\nStopped{by}. Finished stages are kept; the same command goes on from there.")
        sys.exit(code)
