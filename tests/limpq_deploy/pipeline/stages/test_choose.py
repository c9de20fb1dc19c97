"""What the stage that chooses says beside its policy."""

from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

from limpq_deploy.pipeline.stages.choose import _settled
from limpq_deploy.policy.budgets import gbitops_budget
from limpq_deploy.policy.convergence import KEY
from limpq_deploy.policy.indicators import Indicators, LayerIndicators


class Whole:
    """A build without restrictions."""

    def restricted(self, indicators: Indicators) -> Indicators:
        return indicators


@pytest.mark.parametrize(("gbitops", "said"), [(1, "; the scales'"), (1e-9, "")])
def test_scales_of_earlier_steps_are_not_asked_beyond_a_limit_that_nothing_holds(gbitops: float, said: str) -> None:
    layer = LayerIndicators(name="a", macs=1000, num_weights=10, weight=(2.0, 1.0), act=(2.0, 1.0))
    scales: dict[str, Any] = {"step": 1, "weight": {"a": [2.0, 1.5]}, "act": {"a": [2.0, 1.5]}}
    source = {KEY: [scales]}
    indicators = Indicators(model="m", bits=(2, 4), layers=(layer,), source=source)
    found = _settled(Whole(), indicators, (gbitops_budget(indicators, gbitops),))  # type: ignore[arg-type]
    assert found.startswith(said)
    assert bool(found) == bool(said)
