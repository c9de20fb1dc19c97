"""What is said of prices that a compiler gave."""

from dataclasses import replace

from limpq_deploy.cli.output.predictions import error_lines, said_of_policy
from limpq_deploy.export.timing.cost_table import Check, CostTable, Moved

from ....cost_tables import cost_table

MIB = 2**20
PAIRS = {"a": (8, 8), "b": (16, 16)}


def check(built: float, predicted: float) -> Check:
    moved = [Moved(activations=size * MIB, kernels=2) for size in (built, predicted)]
    return Check(name="mixed 0", pairs=dict(PAIRS), built=moved[0], predicted=moved[1])


def table() -> CostTable:
    return cost_table({"a": 1, "b": 1}, {(8, 8): {"a": MIB, "b": MIB}, (16, 16): {"a": 2 * MIB, "b": 2 * MIB}}, batch=4)


def test_a_policy_that_was_not_built_is_predicted_and_the_error_of_predictions_is_said() -> None:
    checked = replace(table(), checks=(check(100, 103), check(100, 99)))
    said = said_of_policy(checked, {"a": (4, 4), "b": (8, 8)}).splitlines()
    assert said[0] == "2.000 MiB moved, 0 kernels for batch 4: predicted, no engine of this policy was built"
    assert said[1].endswith("predicted by a table made without it: off by 2.0 % on average, 3.0 % at most")
    assert "--near" in said[2]
    assert said_of_policy(table(), PAIRS).splitlines()[1] == "no engine checked the table"


def test_a_policy_that_was_built_is_said_as_built() -> None:
    near = replace(table(), near=(check(3.5, 3.0),))
    assert said_of_policy(near, PAIRS) == "3.500 MiB moved, 2 kernels for batch 4: an engine of this policy was built"
    [line] = error_lines(near)
    assert "made without them: off by 14.3 % on average, 14.3 % at most; by this table, which knows them: " in line
