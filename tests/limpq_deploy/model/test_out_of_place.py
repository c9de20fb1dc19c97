"""In-place operations, however they are spelled: every name that sees a write reads its result."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.layers import trace
from limpq_deploy.model.writes import find_writes


class Net(nn.Module):
    """A convolution, ``body`` of its result and another's, and a linear layer."""

    def __init__(self, body: Callable[["Net", Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.relu6 = nn.ReLU6(inplace=True)
        self.hardtanh = nn.Hardtanh(0, 1, inplace=True)
        self.silu = nn.SiLU(inplace=True)
        self.hardswish = nn.Hardswish(inplace=True)
        self.hardsigmoid = nn.Hardsigmoid(inplace=True)
        self.identity = nn.Identity()
        self.dropout = nn.Dropout(inplace=True)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(6, 1, 1))
        self.linear = nn.Linear(6, 4)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.a(x), self.b(x)
        return self.linear(self.body(self, x, y).mean((2, 3)))


def augmented_add(n: Net, x: Tensor, y: Tensor) -> Tensor:
    skip = x
    x += y
    return torch.cat([x, skip], 1)[:, 3:9]


def augmented_mul(n: Net, x: Tensor, y: Tensor) -> Tensor:
    skip = x
    x *= torch.sigmoid(y)
    return x + n.dropout(skip[:, :6])


def before_and_after(n: Net, x: Tensor, y: Tensor) -> Tensor:
    before = torch.cat([x, y], 1)
    x += y
    return torch.cat([before[:, :3], x[:, 3:]], 1)


def twice(n: Net, x: Tensor, y: Tensor) -> Tensor:
    skip = n.identity(x)
    x += y
    n.relu(skip)
    z = x
    z.add_(y)
    return torch.cat([skip[:, :3], x[:, :3]], 1)


def views_of_the_old_name(n: Net, x: Tensor, y: Tensor) -> Tensor:
    part, rest = x[:, :3], x[:, 3:]
    x += y
    return torch.cat([F.max_pool2d(rest, 1), part], 1)


def flattened_before(n: Net, x: Tensor, y: Tensor) -> Tensor:
    flat = x.view(x.size(0), -1)
    F.relu_(x)
    return flat.view(x.size())


def disjoint_views(n: Net, x: Tensor, y: Tensor) -> Tensor:
    u, v = x[:, :3], x[:, 3:]
    u.relu_()
    return torch.cat([v, u], 1)


def gate(n: Net, x: Tensor, y: Tensor) -> Tensor:
    skip = y
    return n.hardsigmoid(y) * x + skip


def before_a_pool(n: Net, x: Tensor, y: Tensor) -> Tensor:
    pooled = F.max_pool2d(x, 2)
    return torch.cat([n.relu(pooled), pooled], 1)[:, 3:9]


def given_out(n: Net, x: Tensor, y: Tensor) -> Tensor:
    skip = x
    torch.add(x, y, out=x)
    return torch.cat([skip, y], 1)[:, :6]


def write_through_a_slice(n: Net, x: Tensor, y: Tensor) -> Tensor:
    before = x + 1
    x[:, :3].relu_()
    return before + x


def write_through_a_view(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x.flatten(1).relu_()
    return x


def write_through_views_of_views(n: Net, x: Tensor, y: Tensor) -> Tensor:
    part, column = x[:, 1:3], x[..., 1]
    part[:, 0].neg_()
    return torch.cat([x, part, column[..., None].expand(-1, -1, -1, 4)], 1)[:, 1:7]


def overlapping_parts(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x[:, 2, 1:].mul_(2)
    x[:, 1:4].add_(y[:, :3])
    return x + y


def parts_are_filled(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x[:, -2:].zero_()
    x[:, :1].fill_(3.0)
    return x


def one_image_is_written(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x[0].mul_(3)
    x[1:].add_(1)
    return x


def set_a_part(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x[:, 0] = 0
    x[:, 1:3, ..., -1] = y[:, 1:2, :, 0]
    y[:] = y * 2
    return x + y


def add_to_a_part(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x[:, :3] += y[:, :3]
    return x


def set_where_a_mask_says(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x[x > 0.5] = 0
    x[:, 1:][y[:, 1:] > 0] = y.mean()
    x[y.mean((1, 2, 3)) > 0] = -1
    return x + y


def every_second_is_written(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x[:, ::2].relu_()
    x[:, 1::2, ::3] *= 2
    y[:, 2:, 1::2, ::2] = x[:, 2:, ::2, 1::2]
    return x + y


def places_are_set(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x[:, [0, 3]] = 0.5
    x[:, torch.tensor([2, 1])] += y[:, 4:]
    x[:, [-1, 0]] = y[:, 2:4]
    x[:, :, torch.tensor([-1])] = y[:, :, :1]
    x[:, y.mean((0, 2, 3)).topk(2)[1]] = y.amax(1, keepdim=True)
    return x + y


def what_it_made_is_written(n: Net, x: Tensor, y: Tensor) -> Tensor:
    out, kept = torch.ones(x.shape[0], 6, 4, 4), x.new_zeros(x.shape)
    out[:, 2:] += y[:, 2:]
    out[:, ::2] = x[:, ::2]
    kept.copy_(out)
    out[:, 0] = 0.5
    empty, given = torch.empty(x.shape), torch.zeros(x.shape)
    empty[..., ::2], empty[..., 1::2] = x[..., 1::2], x[..., ::2]
    torch.add(empty, y, out=given)
    kept = kept + given
    hot = torch.zeros(6, 4, 4).scatter_(0, y.mean(0).argmax(0, keepdim=True), 1.0)
    return torch.cat([out.flip(1), kept], 1)[:, 3:9] * hot + out.mT


def shaped_anew_in_place(n: Net, x: Tensor, y: Tensor) -> Tensor:
    alias = x
    x.unsqueeze_(1)
    alias.relu_()
    y.transpose_(2, 3)
    z = (n.relu(x) + torch.relu_(y).unsqueeze(1)).squeeze_(1)
    return z + alias[:, 0]


SPELLINGS: dict[str, Callable[[Net, Tensor, Tensor], Tensor]] = {
    **{
        function.__name__: function
        for function in (
            *(augmented_add, augmented_mul, before_and_after, twice, views_of_the_old_name, flattened_before),
            *(disjoint_views, gate, before_a_pool, given_out, write_through_a_slice, write_through_a_view),
            *(write_through_views_of_views, overlapping_parts, parts_are_filled, one_image_is_written),
            *(set_a_part, add_to_a_part, set_where_a_mask_says, shaped_anew_in_place),
            *(every_second_is_written, places_are_set, what_it_made_is_written),
        )
    },
    "add_": lambda n, x, y: x.add_(y) + y,
    "add_ as a statement": lambda n, x, y: (x.add_(y), x)[1],
    "data": lambda n, x, y: (x.data.relu_(), x + y)[1],
    "mul_": lambda n, x, y: (x.mul_(torch.sigmoid(y)), x + y)[1],
    "relu_": lambda n, x, y: (x.relu_(), x + y)[1],
    "torch.relu_": lambda n, x, y: (torch.relu_(x), x + y)[1],
    "operator.iadd": lambda n, x, y: (operator.iadd(x, y), x)[1],
    "ReLU": lambda n, x, y: (n.relu(x), x + y)[1],
    "ReLU6": lambda n, x, y: (n.relu6(x), x + y)[1],
    "Hardtanh": lambda n, x, y: (n.hardtanh(x), x + y)[1],
    "SiLU": lambda n, x, y: (n.silu(x), x + y)[1],
    "Hardswish": lambda n, x, y: (n.hardswish(x), x + y)[1],
    "F.relu": lambda n, x, y: (F.relu(x, inplace=True), x + y)[1],
    "F.relu by position": lambda n, x, y: (F.relu(x, True), x + y)[1],
    "F.relu6": lambda n, x, y: (F.relu6(x, inplace=True), x + y)[1],
    "F.hardtanh": lambda n, x, y: (F.hardtanh(x, 0, 2, True), x + y)[1],
    "F.hardtanh_": lambda n, x, y: (F.hardtanh_(x, 0, 2), x + y)[1],
    "F.silu": lambda n, x, y: (F.silu(x, inplace=True), x + y)[1],
    "F.hardswish": lambda n, x, y: (F.hardswish(x, inplace=True), x + y)[1],
    "F.hardsigmoid": lambda n, x, y: (F.hardsigmoid(x, inplace=True), x * y)[1],
}


@pytest.mark.parametrize("body", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_later_readers_of_every_name_read_the_result(body: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Net(body).eval()
    images = 3 * torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        expected = model(images.clone())
        traced = trace(model, (3, 4, 4))
        found = traced.graph_module(images.clone())
        again = model(images.clone())
    # hardswish and silu in one go and as products differ by the rounding of a division
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert find_writes(traced.graph_module, (3, 4, 4)) == []
    assert not any(getattr(module, "inplace", False) for module in traced.graph_module.modules())
    assert torch.equal(again, expected), "the user's own modules stay in place"
    assert model.relu.inplace


def test_the_image_itself_may_be_written_over() -> None:
    class OnTheImage(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.relu(x)
            return self.linear(self.a(x).mean((2, 3)))

    model = OnTheImage(augmented_add).eval()
    images = torch.randn(2, 3, 4, 4)
    traced = trace(model, (3, 4, 4))
    given = images.clone()
    torch.testing.assert_close(traced.graph_module(given), model(images.clone()), rtol=0, atol=0)
    assert torch.equal(given, images)


def write_through_a_transposed_view(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x.transpose(1, 2)[:, 0].relu_()
    return x


def set_what_indices_choose(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x[:, torch.tensor([0, 2]), 0] = 0
    return x


def written_in_another_shape(n: Net, x: Tensor, y: Tensor) -> Tensor:
    (part := x[:, :1], x.transpose_(2, 3).relu_())
    return x + part


def shape_a_parameter_anew(n: Net, x: Tensor, y: Tensor) -> Tensor:
    n.a.weight.unsqueeze_(0)
    return x


def write_into_a_buffer(n: Net, x: Tensor, y: Tensor) -> Tensor:
    n.seen.add_(1)
    return x


def write_into_a_parameter(n: Net, x: Tensor, y: Tensor) -> Tensor:
    n.a.weight.mul_(2)
    return x


def write_into_a_view_of_what_it_made(n: Net, x: Tensor, y: Tensor) -> Tensor:
    (out := torch.zeros(6, 1, 1))[2:].add_(x.mean()) + out
    return x


def set_the_data(n: Net, x: Tensor, y: Tensor) -> Tensor:
    x.data = y
    return x


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (write_through_a_transposed_view, "relu_{here} writes into a tensor through a view"),
        (write_into_a_view_of_what_it_made, "writes into a view of a tensor that it made{here}"),
        (set_what_indices_choose, "but by numbers, slices and masks{here}; it writes into part of a tensor"),
        (written_in_another_shape, "relu_{here} writes into a tensor that another call gave a new shape in place"),
        (shape_a_parameter_anew, "unsqueeze_{here} writes into a tensor that is the model's own 'a.weight'"),
        (write_into_a_buffer, "writes into its own parameters or buffers in evaluation mode, too{here}"),
        (write_into_a_parameter, "mul_{here} writes into a tensor that is the model's own 'a.weight'"),
        (set_the_data, "sets 'data' of a tensor{here}"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_write_without_a_form_out_of_place_is_refused_with_its_line(
    body: Callable[[Net, Tensor, Tensor], Tensor], sentence: str
) -> None:
    here = f" (test_out_of_place.py:{body.__code__.co_firstlineno + 1})"
    with pytest.raises(ModelError) as refused:
        trace(Net(body).eval(), (3, 4, 4))
    assert sentence.format(here=here) in str(refused.value)
