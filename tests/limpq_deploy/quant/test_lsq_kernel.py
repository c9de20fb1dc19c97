import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.quant import fake_quant
from limpq_deploy.quant.fake_quant import fake_quantize
from limpq_deploy.quant.lsq_kernel import ROW, Kernel, load_kernel

GRID = QuantGrid(bits=4, signed=True)
shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    try:
        return load_kernel(tmp_path_factory.mktemp("cache"))
    except OSError as error:
        pytest.skip(f"the operator cannot be compiled here: {error}")


def both(
    x: torch.Tensor, scale: torch.Tensor, axis: int | None, upstream: torch.Tensor, found: Kernel | None
) -> tuple[torch.Tensor, ...]:
    """Result and both gradients, by this kernel or by torch's operations."""
    x, scale = x.detach().requires_grad_(), scale.detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_quant, "kernel", lambda: found)
        out = fake_quantize(x, scale, GRID, elements=x.numel(), axis=axis)
        out.backward(upstream)
    assert x.grad is not None
    assert scale.grad is not None
    return out.detach(), x.grad, scale.grad


@settings(deadline=None)
@given(
    shape=shapes, seed=st.integers(0, 99), axis=st.integers(-1, 3), double=st.booleans(), channels_last=st.booleans()
)
def test_the_compiled_operator_is_the_eager_one(
    compiled: Kernel, shape: list[int], seed: int, axis: int, double: bool, channels_last: bool
) -> None:
    along = axis if 0 <= axis < len(shape) else None
    type_ = torch.float64 if double else torch.float32
    generator = torch.Generator().manual_seed(seed)
    x, upstream = (torch.randn(shape, generator=generator, dtype=type_) * 4 for _ in range(2))
    if channels_last and len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    scale = torch.rand([] if along is None else [shape[along]], generator=generator, dtype=type_) + 0.1
    mine, eager = both(x, scale, along, upstream, compiled), both(x, scale, along, upstream, None)
    assert torch.equal(mine[0], eager[0])
    assert torch.equal(mine[1], eager[1])
    # Sums of at most 6,561 terms of one type, in another order.
    torch.testing.assert_close(mine[2], eager[2], rtol=1e-12 if double else 1e-4, atol=1e-12 if double else 1e-4)


def test_sums_of_many_elements_stay_as_exact_as_float64(compiled: Kernel) -> None:
    generator = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(5 * ROW + 7, generator=generator) for _ in range(2))
    slope = compiled.backward(x, upstream, torch.tensor(0.3), GRID, None, overwrite=False)[1]
    exact = compiled.backward(x.double(), upstream.double(), torch.tensor(0.3).double(), GRID, None, overwrite=False)[1]
    # 16 float32 sums of 1024 terms each per row, then float64; x / s rounds in float32.
    assert slope.item() == pytest.approx(exact.item(), rel=1e-4)


def test_results_do_not_depend_on_the_number_of_threads(compiled: Kernel) -> None:
    x = torch.randn(40 * ROW, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(
                (
                    compiled.forward(x, torch.tensor(0.3), GRID, None),
                    *compiled.backward(x, x, torch.tensor(0.3), GRID, None, overwrite=False),
                )
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_gradient_takes_the_place_of_the_upstream_one_only_where_that_is_allowed(compiled: Kernel) -> None:
    x, upstream = torch.randn(100), torch.randn(100)
    kept = upstream.clone()
    grad, _ = compiled.backward(x, upstream, torch.tensor(0.3), GRID, None, overwrite=False)
    assert torch.equal(upstream, kept)
    over, _ = compiled.backward(x, upstream, torch.tensor(0.3), GRID, None, overwrite=True)
    assert over is upstream
    assert torch.equal(over, grad)


@pytest.mark.parametrize("found", ["compiled", "eager"])
def test_a_gathered_gradient_is_the_sum_over_passes(compiled: Kernel, found: str) -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    grads = []
    for gather in (False, True):
        weight = nn.Parameter(x.clone())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fake_quant, "kernel", lambda: compiled if found == "compiled" else None)
            for scale in (0.1, 0.3, 0.5):
                out = fake_quantize(weight, torch.tensor(scale), GRID, elements=50, overwrite=True, gather=gather)
                (out * x).sum().backward()
        assert weight.grad is not None
        grads.append(weight.grad)
    assert torch.equal(*grads)


def test_a_tensor_with_gaps_and_an_expanded_gradient_are_handled(compiled: Kernel) -> None:
    whole = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    upstream = torch.tensor(2.0).expand(6, 5)
    mine = both(whole[:, ::2], torch.tensor(0.4), None, upstream, compiled)
    eager = both(whole[:, ::2], torch.tensor(0.4), None, upstream, None)
    assert torch.equal(mine[0], eager[0])
    assert torch.equal(mine[1], eager[1])


def test_a_library_is_compiled_once_and_found_again(compiled: Kernel, tmp_path: Path) -> None:
    load_kernel(tmp_path)
    (library,) = tmp_path.glob("*.so")
    made = library.stat().st_mtime_ns
    load_kernel(tmp_path)
    assert library.stat().st_mtime_ns == made
    assert [path.name for path in tmp_path.iterdir()] == [library.name]


PLANTED = """
#include <stdlib.h>
__attribute__((constructor)) static void run(void) { abort(); }
"""


def test_a_planted_library_is_refused_and_nothing_of_it_runs(compiled: Kernel, tmp_path: Path) -> None:
    load_kernel(tmp_path)
    (library,) = tmp_path.glob("*.so")
    (tmp_path / "planted.c").write_text(PLANTED)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "planted", tmp_path / "planted.c"], check=True)
    sound = library.read_bytes()
    program = "from limpq_deploy.quant.lsq_kernel import kernel; kernel()"
    for data in ((tmp_path / "planted").read_bytes(), b"no library", sound[:-1], b""):
        library.write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LIMPQ_CACHE": str(tmp_path)},
        )
        assert done.returncode == 1
        assert "CacheRefused" in done.stderr.splitlines()[-1]
        assert "is not what was kept there (its SHA-256 is another); remove it" in done.stderr


def test_two_first_compilations_in_one_cache_both_compute(compiled: Kernel, tmp_path: Path) -> None:
    program = "from limpq_deploy.quant.lsq_kernel import kernel; print(kernel() is not None)"
    environment = {**os.environ, "LIMPQ_CACHE": str(tmp_path / "cache")}
    both = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    assert [one.communicate()[0].strip() for one in both] == ["True", "True"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_where_the_cache_cannot_be_written_the_operator_is_compiled_all_the_same(compiled: Kernel) -> None:
    assert load_kernel(Path("/proc/none")).threads == compiled.threads


def test_without_a_compiler_training_goes_on_with_torchs_operations(tmp_path: Path) -> None:
    program = (
        "import torch\nfrom limpq_deploy.quant.lsq_kernel import kernel\n"
        "from limpq_deploy.quant.fake_quant import fake_quantize\n"
        "from limpq_deploy.calibration.numbers.grid import QuantGrid\n"
        "x = torch.ones(3, requires_grad=True)\n"
        "fake_quantize(x, torch.tensor(0.5), QuantGrid(bits=2, signed=False), elements=3).sum().backward()\n"
        "print(kernel(), x.grad.tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "LIMPQ_CACHE": str(tmp_path / "cache")},
    )
    assert done.stdout.strip() == "None [1.0, 1.0, 1.0]", done.stderr
