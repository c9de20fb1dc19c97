"""A tensor while a model is traced: what a forward does with it, as calls of the graph."""

import operator
import sys
import traceback
from collections.abc import Callable, Iterator
from types import EllipsisType
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.fx.proxy import Attribute

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.foreign import line_of_stack
from limpq_deploy.model.assertions import asserted
from limpq_deploy.model.operations import AUGMENTED


def _augmented(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


def _reading(name: str) -> Callable[..., Any]:
    def method(self: "TracedTensor", *_: Any) -> NoReturn:
        raise branches(name)

    return method


def branches(how: str, where: str | None = None) -> ModelError:
    """A forward that reads values, by the name of what reads them."""
    what = "branches on the values of a tensor" if how == "__bool__" else f"reads the values of a tensor ({how})"
    return ModelError(
        f"the model cannot be traced: it {what}{here() if where is None else where}; its forward must not branch on "
        "tensor values: compute with tensors there, as torch.where does, or outside of the forward"
    )


def here() -> str:
    return line_of_stack(traceback.extract_stack())


class TracedTensor(fx.Proxy):
    """A tensor while a model is traced. torch.fx takes ``x += y`` for ``x = x + y``, although it changes what every
    other name of ``x`` shows; and it forgets ``x.data = y``, which is refused here."""

    @property
    def _value(self) -> Any:
        return self.tracer.values.get(self.node)  # type: ignore[attr-defined]

    def __getattr__(self, k: str) -> Any:
        value = self._value
        if k.startswith("__"):  # protocols for real tensors, such as __dlpack__
            raise AttributeError(k)
        if not isinstance(value, Tensor):
            return super().__getattr__(k)
        if k == "data":
            return self.detach()
        found = getattr(value, k)
        if isinstance(found, Tensor):
            return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        return Attribute(self, k) if callable(found) else cpus(found)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise ModelError(f"the model's forward sets {name!r} of a tensor{here()}; make a new tensor instead")
        super().__setattr__(name, value)

    def __setitem__(self, index: Any, value: Any) -> None:
        """A write through a view, as torch has it, or of a number where a mask says so: `writes` finds it and writes it
        out of place."""
        one = not isinstance(value, Tensor | TracedTensor) or value.dim() == 0
        if one and type(index) is TracedTensor and index.dtype is torch.bool:
            self.masked_fill_(index.reshape(*index.shape, *[1] * (self.dim() - index.dim())), value)
            return
        places = index if type(index) is tuple else (index,)
        lists = [axis for axis, one in enumerate(places) if _is_list_of_places(one)]
        if len(lists) == 1 and all(one == slice(None) for one in places[: lists[0]]) and len(places) == lists[0] + 1:
            self._set_places(lists[0], places[-1], value, one)
            return
        if any(not isinstance(one, int | slice | EllipsisType) for one in places):
            raise TypeError("'TracedTensor' object does not support item assignment but by numbers, slices and masks")
        part = operator.getitem(self, index)
        if not isinstance(value, Tensor | TracedTensor):
            part.fill_(value)
        else:
            part.copy_(value if value.shape == part.shape else value.expand(part.shape))

    def _set_places(self, axis: int, places: Any, value: Any, one: bool) -> None:
        """``x[:, [0, 2]] = value``, which is ``one`` number or as many values as places."""
        given = torch.tensor(places) if isinstance(places, list) else places
        if not isinstance(given, TracedTensor):  # index_copy_ counts from the first one alone
            given = given + self.shape[axis] * (given < 0)
        if one:
            self.index_fill_(axis, given, value)
            return
        shape = (*self.shape[:axis], len(given), *self.shape[axis + 1 :])
        self.index_copy_(axis, given, value if value.shape == shape else value.expand(shape))

    def __bool__(self) -> bool:
        """As an assertion wants it; whatever else branches on values is refused."""
        held = asserted(sys._getframe(1))
        if held is None:
            raise branches("__bool__")
        return held

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        return iter([operator.getitem(self, number) for number in range(len(self))])


for _operator in AUGMENTED:
    setattr(TracedTensor, f"__{_operator.__name__}__", _augmented(_operator))
for _reader in ("__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__"):
    setattr(TracedTensor, _reader, _reading(_reader))


def _is_list_of_places(one: Any) -> bool:
    if isinstance(one, list):
        return bool(one) and all(type(place) is int for place in one)
    whole = isinstance(one, Tensor | TracedTensor) and not one.is_floating_point() and one.dtype is not torch.bool
    return whole and one.dim() == 1


def cpus(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device) else value
