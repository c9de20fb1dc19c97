"""What a factory returns becomes a plain float32 module, or is refused in a sentence that names the thing."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.given_model import plain, settings_kept, unwrap
from limpq_deploy.model.layers import trace


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5))


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def changed(change: Callable[[nn.Module, nn.Module], object]) -> nn.Sequential:
    """``change(second convolution, linear layer)``, after which the model has trained once, so that it has run."""
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the hook form is out of fashion, and in use
        change(model[2], model[4])
    model(IMAGES).sum().backward()
    return model


FOLDED: dict[str, tuple[Callable[[nn.Module, nn.Module], object], str]] = {
    "pruning": (lambda c, f: prune.l1_unstructured(c, "weight", amount=0.5), "pruning of 2.weight; training does"),
    "pruning twice": (
        lambda c, f: (prune.random_structured(c, "weight", amount=1, dim=0), prune.l1_unstructured(c, "weight", 0.5)),
        "pruning of 2.weight",
    ),
    "global pruning": (
        lambda c, f: prune.global_unstructured([(c, "weight"), (f, "bias")], prune.L1Unstructured, amount=0.3),
        "pruning of 2.weight, 4.bias",
    ),
    "weight_norm hook": (lambda c, f: weight_norm(c), "weight_norm of 2.weight"),
    "spectral_norm hook": (lambda c, f: spectral_norm(f), "spectral_norm of 4.weight"),
    "weight_norm": (lambda c, f: parametrizations.weight_norm(c), "WeightNorm of 2.weight"),
    "spectral_norm": (lambda c, f: parametrizations.spectral_norm(c), "SpectralNorm of 2.weight"),
    "orthogonal": (lambda c, f: parametrizations.orthogonal(f), "Orthogonal of 4.weight"),
    "of the user": (lambda c, f: parametrize.register_parametrization(c, "bias", Halved()), "Halved of 2.bias"),
    "one on another": (
        lambda c, f: (weight_norm(c), prune.l1_unstructured(c, "weight_v", amount=0.5)),
        "weight_norm of 2.weight; pruning of 2.weight_v",
    ),
}


@pytest.mark.parametrize(("change", "note"), FOLDED.values(), ids=FOLDED.keys())
def test_what_torch_can_fold_is_folded_and_the_given_model_stays(
    change: Callable[[nn.Module, nn.Module], object], note: str
) -> None:
    model = changed(change)
    model.eval()
    with torch.no_grad():
        expected = model(IMAGES).clone()
    found = plain(model)
    with torch.no_grad():
        torch.testing.assert_close(found.model(IMAGES), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.given(IMAGES), expected, rtol=1e-6, atol=1e-6)
    assert found.model.state_dict().keys() == net().state_dict().keys()
    assert found.given.state_dict().keys() != net().state_dict().keys()
    assert {type(module) for module in found.model.modules()} == {type(module) for module in net().modules()}
    assert note in found.notes[0]


def test_a_plain_model_is_its_own_reference_without_a_note() -> None:
    model = net()
    found = plain(model)
    assert found.model is model
    assert found.given is model
    assert found.notes == ()
    assert not model.training


class Compiled(nn.Module):
    """As torch.compile wraps a module (its class takes seconds to import)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        Compiled,
        torch.optim.swa_utils.AveragedModel,
        lambda model: nn.DataParallel(Compiled(nn.DataParallel(model))),
    ],
    ids=["DataParallel", "compile", "AveragedModel", "nested"],
)
def test_wrappers_come_off_with_what_they_say_of_the_model(wrap: Callable[[nn.Module], nn.Module]) -> None:
    wrapped = wrap(net())
    wrapped.preprocess = 5  # type: ignore[assignment]
    found = unwrap(nn.DataParallel(wrapped))
    assert type(found) is nn.Sequential
    assert found.preprocess == 5
    with torch.no_grad():
        torch.testing.assert_close(found(IMAGES), net()(IMAGES))


def test_wrapped_and_compiled_submodules_are_unwrapped_too() -> None:
    model = net()
    model[2] = nn.DataParallel(model[2])
    model[4]._compiled_call_impl = model[4].forward  # as Module.compile() does, whose compiler takes seconds to import
    found = unwrap(model)
    assert found.state_dict().keys() == net().state_dict().keys()
    assert all(module._compiled_call_impl is None for module in found.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_become_float32_with_a_note(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    expected = {name: tensor.float() for name, tensor in model.state_dict().items()}
    found = plain(model)
    name = str(dtype).removeprefix("torch.")
    assert found.notes == (f"The model has 6 tensors in {name}; it is traced, trained and compared in float32.",)
    state = found.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert found.model(IMAGES).dtype == torch.float32


def test_inference_tensors_become_ordinary_ones_and_stay_shared() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        model[2].weight = model[0].weight
    found = unwrap(model)
    assert not any(tensor.is_inference() for tensor in (*found.parameters(), *found.buffers()))
    assert found[2].weight is found[0].weight  # type: ignore[index]
    found(torch.randn(3, 4)).sum().backward()


def test_frozen_parameters_are_trained_and_said_so() -> None:
    model = net().requires_grad_(False)
    found = plain(model)
    assert all(parameter.requires_grad for parameter in found.model.parameters())
    assert found.notes == ("The model has 6 frozen parameters (requires_grad=False); training moves all of them here.",)


def scripted() -> nn.Module:
    model = net()
    model[2] = torch.jit.trace(model[2], torch.randn(1, 4, 6, 6))
    return model


def meta() -> nn.Module:
    return net().to("meta")


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.Linear(4, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (scripted, r"module '2' \(TopLevelTracedModule\) is TorchScript, which cannot be traced"),
        (meta, "'0.weight' is a meta tensor, which has a shape and no values"),
        (lazy, "'0.weight' belongs to a lazy module that has not seen an image yet"),
    ],
)
def test_a_model_without_python_or_values_has_a_sentence_of_its_own(
    make: Callable[[], nn.Module], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        unwrap(make())


def scale(*values: object) -> None:
    """A hook; what it returns is of no matter here."""


def own_forward(model: nn.Sequential) -> None:
    model[2].forward = lambda x: x


class Calling(nn.Sequential):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) / 4


def test_a_call_of_the_model_s_own_is_refused() -> None:
    with pytest.raises(ModelError, match=r"the model \(Calling\) has a __call__ of its own"):
        plain(Calling(nn.Linear(2, 2)))


def test_a_graph_of_torch_fx_is_a_model_too() -> None:
    found = plain(torch.fx.symbolic_trace(net()))
    assert [layer.name for layer in trace(found.model, (3, 8, 8)).layers] == ["0", "2", "4"]


HERE = rf"\(scale, test_given_model.py:{scale.__code__.co_firstlineno}\)"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.register_forward_hook(scale), rf"the model \(Sequential\) has a forward hook {HERE}"),
        (lambda m: m.register_forward_pre_hook(scale), rf"the model \(Sequential\) has a forward pre-hook {HERE}"),
        (lambda m: m[2].register_forward_hook(scale, with_kwargs=True), r"module '2' \(Conv2d\) has a forward hook"),
        (lambda m: m[2].register_full_backward_hook(scale), rf"module '2' \(Conv2d\) has a backward hook {HERE}"),
        (own_forward, r"module '2' \(Conv2d\) has a forward of its own, set on this one module"),
    ],
    ids=["hook", "pre-hook", "with kwargs", "backward", "forward"],
)
def test_other_hidden_state_is_refused_by_name(change: Callable[[nn.Sequential], object], sentence: str) -> None:
    model = net()
    change(model)
    with pytest.raises(ModelError, match=sentence):
        plain(model)


def test_a_hook_for_all_modules_is_refused() -> None:
    handle = register_module_forward_hook(scale)
    try:
        with pytest.raises(ModelError, match=rf"torch has a forward hook for all modules {HERE}"):
            plain(net())
    finally:
        handle.remove()
    assert plain(net()).notes == ()


def test_what_a_factory_sets_of_torch_ends_with_it() -> None:
    with settings_kept():
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
    assert torch.zeros(1).dtype == torch.float32
    assert not torch.zeros(1).is_meta
    assert torch.is_grad_enabled()


def test_a_model_that_has_to_be_copied_and_cannot_be_is_told() -> None:
    model = changed(FOLDED["pruning"][0])

    class Held:
        def __deepcopy__(self, memo: object) -> object:
            raise TypeError("a lock")

    model.lock = Held()  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"the model cannot be copied: TypeError: a lock \(test_given_model.py"):
        plain(model)


def test_a_module_of_torch_export_is_refused() -> None:
    exported = torch.export.export(net(), (IMAGES,)).module()
    with pytest.raises(ModelError, match=r"the model \(GraphModule\) comes from torch.export, and its graph is fixed"):
        unwrap(exported)


def test_batchnorm_of_several_devices_is_that_of_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    synced = unwrap(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)))
    assert any(isinstance(module, nn.BatchNorm2d) for module in synced.modules())
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in synced.modules())
    with torch.no_grad():
        torch.testing.assert_close(synced.eval()(IMAGES), model.eval()(IMAGES), rtol=0, atol=0)
    assert synced.state_dict().keys() == model.state_dict().keys()
