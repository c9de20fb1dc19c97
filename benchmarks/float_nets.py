"""Float networks for the comparison of importance measures, trained here on images of which a part stays unseen.

`float_nets_made.py` has the networks. They see CIFAR-10's sample without the part that joint training holds out
(`Subject.joint_data`: the split that a build uses, fixed by its seed), so that importance and previews are measured on
images that no network knows. Trained by the product's own float stage (SGD, one cosine), checkpointed: the same command
goes on where it was stopped. Weights and curves go to ``benchmarks/float_nets/`` with ``--keep``.

Keys: `nets` {name: {`parameters`, `epochs`, `seconds` (of training, all runs together), `losses` (mean of each epoch),
`held_out`, `val`, `test` (top-1 in percent)}}, `images` {split: images}.

    python benchmarks/float_nets.py --only mobilenet --out DIR
    python benchmarks/float_nets.py --smoke --json      a few images and steps: that it runs to its end
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from float_nets_made import EPOCHS, NETS
from safetensors.torch import save_file
from shared_data import cifar10

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.train.accuracy import top1_together
from limpq_deploy.train.execution import Checkpoint, Execution
from limpq_deploy.train.float_training import train_float
from limpq_deploy.train.settings import Training, float_settings

KEPT = Path(__file__).with_name("float_nets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one epoch each")
    parser.add_argument("--smoke", action="store_true", help="a few images, two steps: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=NETS, action="append")
    parser.add_argument("--out", type=Path, help="keep images and checkpoints here, and go on from them")
    parser.add_argument("--keep", action="store_true", help=f"weights and curves into {KEPT.name}/ beside this file")
    options = parser.parse_args()
    if options.keep and (options.quick or options.smoke):
        parser.error("--keep is for the whole training: leave --quick and --smoke")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        images, _ = cifar10(out, smoke=options.smoke)
        nets = {}
        for name in options.only or NETS:
            training = Training(float_epochs=1 if options.quick else EPOCHS[name], batch_size=128)
            if options.smoke:
                training = Training(float_steps=2, batch_size=32)
            nets[name], splits = trained(name, images, training, out / folder(name, training), options.keep)
    found = {"nets": nets, "images": {split: len(part) for split, part in splits.items()}}
    print(json.dumps(found) if options.json else page(found))


def trained(
    name: str, images: Path, training: Training, out: Path, keep: bool
) -> tuple[dict[str, Any], dict[str, Split]]:
    """One network's figures, and the parts of the images; trained, or gone on with, where it is not done."""
    out.mkdir(parents=True, exist_ok=True)
    subject = Subject(Config(model=f"float_nets_made:{name}", data=f"imagefolder:{images}", out=out))
    data = subject.joint_data
    parts = {"train": data.split("train"), "held_out": data.split("val"), "val": subject.dataset.split("val")}
    parts["test"] = subject.dataset.split("test")
    record = out / "net.json"
    if not record.exists():
        torch.manual_seed(0)
        net = NETS[name]()
        settings = float_settings(len(parts["train"]), training)
        epochs = settings.steps * settings.batch_size / len(parts["train"])
        identity = {"net": name, "data": data.fingerprint, "steps": settings.steps}
        execution = Execution(checkpoint=Checkpoint(path=out / "state.safetensors", identity=identity))
        history = train_float(net, data, settings=settings, seed=0, report=said, execution=execution).history
        net.eval()
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, out / "weights.safetensors")
        figures = {
            "parameters": sum(value.numel() for value in net.parameters()),
            "epochs": round(epochs),
            "seconds": round(history.seconds),
            "losses": of_epochs([loss for (loss,) in history.losses], epochs),
            **{part: round(top1_together(net, parts[part]), 2) for part in ("held_out", "val", "test")},
        }
        record.write_text(json.dumps(figures) + "\n")
    if keep:
        KEPT.mkdir(exist_ok=True)
        (KEPT / f"{name}.safetensors").write_bytes((out / "weights.safetensors").read_bytes())
        (KEPT / f"{name}.json").write_text(record.read_text())
    return json.loads(record.read_text()), parts


def folder(name: str, training: Training) -> str:
    """Of one training: another length is another one."""
    length = f"{training.float_steps}-steps" if training.float_epochs is None else f"{training.float_epochs}-epochs"
    return f"{name}-{length}"


def of_epochs(losses: list[float], epochs: float) -> list[float]:
    """Means of the steps of each epoch."""
    count = max(1, round(epochs))
    cut = [losses[len(losses) * at // count : len(losses) * (at + 1) // count] for at in range(count)]
    return [round(sum(part) / len(part), 4) for part in cut if part]


def said(done: int, total: int, note: str = "") -> None:
    if done % 100 == 0 or done == total:
        print(f"  {done}/{total} {note}", file=sys.stderr, flush=True)


def page(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| network | parameters | epochs | held out | val | test |", "|" + "---|" * 6]
    for name, net in found["nets"].items():
        figures = " | ".join(f"{net[part]} %" for part in ("held_out", "val", "test"))
        lines.append(f"| {name} | {net['parameters']:,} | {net['epochs']} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
