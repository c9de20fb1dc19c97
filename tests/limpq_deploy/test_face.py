"""The names that `import limpq_deploy` offers, and what importing it costs."""

import subprocess
import sys

import pytest

import limpq_deploy


@pytest.mark.parametrize("name", limpq_deploy.__all__)
def test_every_name_of_the_face_is_there(name: str) -> None:
    assert getattr(limpq_deploy, name) is not None
    assert name in dir(limpq_deploy)


def test_what_is_offered_is_what_is_found() -> None:
    found = {name for names in limpq_deploy._HOMES.values() for name in names}
    assert found | {"__version__", "export"} == set(limpq_deploy.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = limpq_deploy.nothing


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "onnx", "pydantic")
    code = f"import sys, limpq_deploy; print(*(one for one in {heavy} if one in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
