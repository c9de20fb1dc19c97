"""The modules of a quantized model: layers, activation quantizers and switchable BatchNorm."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.calibration.numbers.ranges import SMALLEST
from limpq_deploy.calibration.numbers.rounding import codes_of
from limpq_deploy.export.records.placement import BLOCKED_BITS, ActQuantizer
from limpq_deploy.quant.fake_quant import LearnedScales, fake_quantize, quantize

FRACTIONS = 64
"""Parts of a block's widest scale, of which the best is taken."""

OCTAVES = (0, -1, 1, -2, 2)
"""Of a channel's power of two from its layer's; of equal errors the first wins."""


class ActFakeQuant(nn.Module):
    """An activation quantizer. ``bits``: its candidate widths, ascending; ``active``: the one in use, None for float.

    ``above``: the quantizer whose codes it reads, if it re-quantizes some. At that one's width or above it passes its
    input through (from ``identity_from`` on, see `Placement.act_grids`); between integers and FP8 it never does.
    """

    def __init__(
        self, placed: ActQuantizer, bits: tuple[int, ...], grids: tuple[QuantGrid, ...], *, pow2: bool = False
    ) -> None:
        super().__init__()
        self.placed = placed
        self.bits = bits
        self.scales = LearnedScales(grids, pow2=pow2)
        self.active: int | None = None
        self.identity_from: int | None = None
        self.above: tuple[ActFakeQuant, ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.passes:
            return x
        assert self.active is not None
        index = self.bits.index(self.active)
        return fake_quantize(x, self.scales.scale(index), self.scales.grids[index], elements=x[0].numel())

    def levels(self) -> torch.Tensor | None:
        """All values that it gives at the active width, ascending; None where it is off."""
        if self.active is None:
            return None
        index = self.bits.index(self.active)
        grid, scale = self.scales.grids[index], self.scales.scale(index).detach()
        return codes_of(grid).to(scale.device) * scale

    @property
    def passes(self) -> bool:
        """Whether it hands its input on as it is."""
        if self.active is None:
            return True
        given = self.above[0].active if self.above else self.identity_from
        if given is None or FP8 in (self.active, given):
            return self.active == given
        return self.identity_from is not None and self.active >= self.identity_from

    def active_params(self) -> QuantParams:
        """Grid and scale at the active width."""
        assert self.active is not None
        return QuantParams(grid=self.scales.grids[self.bits.index(self.active)], scale=(self.active_scale(),))

    def active_scale(self) -> float:
        """Scale at the active width."""
        assert self.active is not None
        return self.scales.scale(self.bits.index(self.active)).item()


class QuantLayer(nn.Module):
    """A convolution or linear layer with a quantized weight; ``weight`` and ``bias`` keep their names.

    ``pow2``: the scales that are left when a BatchNorm is folded in are powers of two. The step of channel c is then
    ``2^k / f``, with f = ``fold_factor``()[c] = |gamma| / sqrt(var + eps) and 2^k the power next to the learned scale
    times f, times 2^``octaves``[c]: the layer's own function stays, only the grid of each channel moves. ``octaves``
    [len(grids), O] are whole numbers, see `choose_octaves`. ``block``: on grids of at most `BLOCKED_BITS` so many
    weights in a row share a step, the layer's scale times ``spread`` [len(grids), O, blocks], see `choose_spread`.
    ``exported``: what is computed instead (see `folded_forward`).
    """

    octaves: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        bits: tuple[int, ...],
        grids: tuple[QuantGrid, ...],
        *,
        pow2: bool = False,
        fold_factor: Callable[[], torch.Tensor] | None = None,
        block: int | None = None,
    ) -> None:
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        self.bits = bits
        self.scales = LearnedScales(grids, pow2=pow2)
        self.active: int | None = None
        self.gathers_gradients = False
        self.exported: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.fold_factor = fold_factor
        if pow2:
            self.register_buffer("octaves", torch.zeros(len(grids), len(layer.weight)))
        self.block = block
        if self.block is not None:
            self.register_buffer(
                "spread", torch.ones(len(grids), len(layer.weight), layer.weight[0].numel() // self.block)
            )
        self.apply_weight = application(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.exported is not None:
            return self.exported(x)
        if self.active is None:
            return self.apply_weight(x, self.weight, self.bias)
        index = self.bits.index(self.active)
        grid = self.scales.grids[index]
        step, elements, rows = self.step(index), self.weight.numel(), self._rows(index)
        weight = fake_quantize(
            rows,
            step,
            grid,
            elements=elements,
            axis=0 if step.dim() else None,
            overwrite=True,
            gather=self.gathers_gradients,
        ).view_as(self.weight)
        return self.apply_weight(x, weight, self.bias)

    def initialise(self, scales: list[float]) -> None:
        """Start from these scales, one per grid; of powers of two every channel takes the one of least squared error,
        up to two octaves from its layer's, and every block its own scale of least squared error."""
        self.scales.initialise(scales)
        self.choose_octaves()
        self.choose_spread()

    @torch.no_grad()
    def choose_octaves(self) -> None:
        """Let every channel take the power of two of least squared error, beside the scales as they are."""
        if not self.scales.pow2:
            return
        self.octaves.zero_()
        rows = self.weight.detach().flatten(1)
        for index, grid in enumerate(self.scales.grids):
            step = self.step(index)
            tried = torch.stack([self._squared_error(rows, step * 2.0**octave, grid) for octave in OCTAVES])
            self.octaves[index] = torch.tensor(OCTAVES, device=rows.device)[tried.argmin(0)].to(self.octaves)

    @torch.no_grad()
    def choose_spread(self) -> None:
        """Let every block take the scale of least squared error, of `FRACTIONS` parts of the one that clips nothing. A
        block of zeros keeps the layer's: the smallest would be too small for FP16, in which scales are exported."""
        for index, grid in enumerate(self.scales.grids):
            if not self._blocked(index):
                continue
            rows = self._rows(index).detach()
            widest = (rows.abs().amax(1) / grid.qmax).clamp_min(SMALLEST)
            tried = [widest * (part / FRACTIONS) for part in range(FRACTIONS, FRACTIONS // 4, -1)]
            errors = torch.stack([self._squared_error(rows, step, grid) for step in tried])
            best = torch.stack(tried).gather(0, errors.argmin(0, keepdim=True))[0]
            spread = torch.where(rows.any(1), best / self.scales.scale(index), 1.0)
            self.spread[index] = spread.view_as(self.spread[index])

    def block_steps(self) -> torch.Tensor | None:
        """Steps [O, blocks] at the active width; None where a channel, or the layer, has one."""
        assert self.active is not None
        index = self.bits.index(self.active)
        return self.step(index).detach().view_as(self.spread[index]) if self._blocked(index) else None

    def step(self, index: int) -> torch.Tensor:
        """Step of the weight's grid: 0-d, or [O] where channels differ, or [O * blocks] for `_rows`."""
        if self._blocked(index):
            return self.scales.scale(index) * self.spread[index].flatten()
        if not self.scales.pow2:
            return self.scales.scale(index)
        factor = self._factor()
        return self._powers(index) / torch.where(factor > 0, factor, 1.0)

    def active_scale(self) -> float:
        """Weight scale at the active width; of powers of two, the layer's, before channels take theirs."""
        assert self.active is not None
        return self.scales.scale(self.bits.index(self.active)).item()

    def folded_scales(self) -> torch.Tensor | None:
        """Scales at the active width once the BatchNorm is folded in, [O], where they are chosen so; else None."""
        assert self.active is not None
        if not self.scales.pow2:
            return None
        return self._powers(self.bits.index(self.active)).detach()

    def codes(self) -> torch.Tensor:
        """Integer weight codes (as floats) at the active width, by the arithmetic of the forward pass."""
        assert self.active is not None
        index = self.bits.index(self.active)
        found = quantize(self._rows(index).detach(), self.step(index).detach(), self.scales.grids[index])
        return found.view_as(self.weight)

    def _blocked(self, index: int) -> bool:
        return self.block is not None and self.scales.grids[index].bits <= BLOCKED_BITS

    def _rows(self, index: int) -> torch.Tensor:
        """The weight, by blocks [O * blocks, block] where these have steps of their own."""
        return self.weight.reshape(-1, self.block or 1) if self._blocked(index) else self.weight

    def _powers(self, index: int) -> torch.Tensor:
        return self.scales.folded_powers(index, self._factor(), self.octaves[index])

    def _factor(self) -> torch.Tensor:
        return self.weight.new_ones(len(self.weight)) if self.fold_factor is None else self.fold_factor()

    @staticmethod
    def _squared_error(rows_OK: torch.Tensor, step_O: torch.Tensor, grid: QuantGrid) -> torch.Tensor:
        return (rows_OK - quantize(rows_OK, step_O, grid) * step_O[:, None]).square().sum(1)


class SwitchableBatchNorm(nn.Module):
    """One BatchNorm for each weight bit-width of its layer (Yu et al., Slimmable Networks, ICLR 2019): all [n, C]."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, bits: tuple[int, ...]) -> None:
        super().__init__()
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        count = len(bits)
        self.bits = bits
        self.eps = norm.eps
        self.momentum: float = 0.1 if norm.momentum is None else norm.momentum
        self.weight = nn.Parameter(norm.weight.detach().repeat(count, 1))
        self.bias = nn.Parameter(norm.bias.detach().repeat(count, 1))
        self.register_buffer("running_mean", mean.repeat(count, 1))
        self.register_buffer("running_var", var.repeat(count, 1))
        self.active: int | None = None
        self.folded = False

    def fold_factor(self) -> torch.Tensor:
        """|gamma| / sqrt(var + eps) at the active width, [C], without gradients."""
        index = self._index()
        return self.weight[index].detach().abs() / (self.running_var[index] + self.eps).sqrt()

    def _index(self) -> int:
        return len(self.bits) - 1 if self.active is None else self.bits.index(self.active)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """By the batch's statistics in training, where it has any: one value of each channel alone has no variance."""
        if self.folded:
            return x
        index = self._index()
        return F.batch_norm(
            x,
            self.running_mean[index],
            self.running_var[index],
            self.weight[index],
            self.bias[index],
            self.training and x.numel() > len(self.bias[index]),
            self.momentum,
            self.eps,
        )


def application(
    layer: nn.Conv2d | nn.Linear,
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """What a layer does, from input, weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear
    stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups

    def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return convolve
