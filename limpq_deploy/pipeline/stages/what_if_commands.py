"""Commands that build the policies of a front: those of this build with another budget, in a folder of their own."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.settings import ROUNDS
from limpq_deploy.policy.budgets import BUDGETS, COST_FILES, of_kind
from limpq_deploy.policy.what_if import WhatIf, WhatIfPoint


def commands_of(found: WhatIf, config: Config) -> dict[str, str]:
    """Of each point of the front and of uniform bits, by its name."""
    return {
        **{point.name: _command(found, point, config) for point in found.points},
        **{point.name: _uniform(point, config) for point in found.uniform},
    }


def _command(found: WhatIf, point: WhatIfPoint, config: Config) -> str:
    """With the point's limit, and the measure by which it is the best: the search then finds these very bits."""
    limit, kind = point.settings[found.swept], BUDGETS[found.swept].kind
    changed: dict[str, Any] = dict.fromkeys(of_kind(kind) if kind is not None else ())
    typed = {field.name: field for field in fields(Config)}[found.swept]
    changed[found.swept] = limit if typed.type == "str | None" else float(limit)
    changed |= {"importance": found.importance, "alpha": found.alpha, "outliers": found.outliers}
    return replace(config, **changed, out=_beside(config.out, limit)).command_line()


def _uniform(point: WhatIfPoint, config: Config) -> str:
    """A search in which no layer may have fewer bits, and all together no more BitOps."""
    width, _ = next(iter(point.pairs().values()))
    alone: dict[str, Any] = {
        **dict.fromkeys(BUDGETS),
        **dict.fromkeys(COST_FILES),
        "like": f"w{width}a{width}",
        "latency_rounds": ROUNDS,
    }
    alone["min_bits"] = (f"*={width}",)
    return replace(config, **alone, out=_beside(config.out, point.name)).command_line()


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.name}-{name}")
