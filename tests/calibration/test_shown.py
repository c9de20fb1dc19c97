"""What every record that is a table has."""

import pytest

from limpq_deploy.calibration.shown import Saved, Shown


@pytest.mark.parametrize("base", [Shown, Saved])
def test_a_table_without_rows_cannot_be_made(base: type[Shown]) -> None:
    with pytest.raises(TypeError, match="rows"):
        type("Empty", (base,), {})()
    shown = type("Two", (base,), {"rows": lambda self: [{"a": 1}, {"b": "<"}]})()
    assert "<td>1</td>" in shown._repr_html_()
    assert "&lt;" in shown._repr_html_()
