"""One small build on the digits, which campaigns copy and damage."""

import subprocess
import sys
from pathlib import Path

SETTINGS = """
like = "w5a5"
max-accuracy-drop = 30.0  # a float model of 60 steps is no yardstick
latency_seconds = 0.1
[training]
float-steps = 60
joint_steps = 5
finetune_steps = 40
"""


def make_build(folder: Path) -> Path:
    """The build in ``folder/out``; it is made where it is not there yet."""
    out = folder / "out"
    if not (out / "bundle" / "manifest.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.toml").write_text(SETTINGS)
        words = ["build", "--config", "build.toml", "--out", "out"]
        subprocess.run([sys.executable, "-m", "limpq_deploy", *words], cwd=folder, check=True, capture_output=True)
    return out
