"""The public interface alone: the published policy, a build without training, and a front.

python docs/howto/public_interface.py INDICATORS.json OUT, with tests/golden/resnet50_official_macs.indicators.json
"""

import sys
from pathlib import Path

import limpq_deploy

# what the authors searched with: the learned scales, w3a4 and 12.2 times smaller, alpha 2
AUTHORS = {"importance": "scale", "alpha": 2.0, "like": "w3a4", "compression_ratio": 12.2}


def main(indicators: Path, out: Path) -> None:
    policy = limpq_deploy.search(indicators, **AUTHORS)
    policy.save(out / "policy.json")
    front = limpq_deploy.sweep(indicators, "30:60:4")
    front.plot().save(out / "front.svg")
    report = limpq_deploy.calibrate(
        bits=[8], like="w8a8", out=out / "build", engine=False, training={"float_steps": 60}
    )
    print(f"{len(policy.bits)} layers, {policy.solver.status}; {len(front.points)} points; {report.model}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
