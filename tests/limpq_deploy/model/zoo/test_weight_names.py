"""Names, dictionaries and kinds of tensors as training programs leave them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.zoo.weights import load_weights

State = dict[str, Tensor]


def small(classes: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, classes))


def saved(held: Any, folder: Path) -> Path:
    torch.save(held, folder / "w.pth")
    return folder / "w.pth"


def same(model: nn.Module, state: State) -> bool:
    return all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state", "model_ema", "ema", "params", "whatever"])
def test_weights_are_found_in_a_dictionary_of_any_name(tmp_path: Path, key: str) -> None:
    state, model = small().state_dict(), small()
    load_weights(model, saved({key: state, "epoch": 3}, tmp_path))
    assert same(model, state)
    load_weights(fresh := small(), saved({"outer": {key: {"module": state, "decay": 0.9}}}, tmp_path))
    assert same(fresh, state)


def test_several_that_fit_are_named_and_one_is_asked_for(tmp_path: Path) -> None:
    raw, averaged = small().state_dict(), small().state_dict()
    path = saved({"model": raw, "ema": {"module": averaged}, "teacher": small(9).state_dict()}, tmp_path)
    with pytest.raises(ModelError, match=r"more than once: model, ema.module; say which, such as --weights-key model"):
        load_weights(small(), path)
    for key, state in (("model", raw), ("ema", averaged), ("ema.module", averaged)):
        load_weights(model := small(), path, key)
        assert same(model, state)
    with pytest.raises(
        ModelError, match=r"no weights under --weights-key other; expected one of model, teacher, ema.mo"
    ):
        load_weights(small(), path, "other")


def test_one_that_fits_is_taken_among_others_and_equal_ones_are_one(tmp_path: Path) -> None:
    state, model = small().state_dict(), small()
    told = load_weights(model, saved({"teacher": small(9).state_dict(), "net": state, "copy": dict(state)}, tmp_path))
    assert same(model, state)
    assert "'net'" in told[0]


def test_a_key_takes_one_of_two_networks_in_one_dictionary(tmp_path: Path) -> None:
    student, teacher = small().state_dict(), small().state_dict()
    both = {f"{role}.{name}": t for role, part in (("s", student), ("t", teacher)) for name, t in part.items()}
    load_weights(model := small(), saved(both, tmp_path), "t")
    assert same(model, teacher)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "_orig_mod.module.model.", "model.backbone."],
)
def test_prefixes_are_taken_off_where_all_names_fit_then(tmp_path: Path, prefix: str) -> None:
    state, model = small().state_dict(), small()
    (told,) = load_weights(model, saved({prefix + name: tensor for name, tensor in state.items()}, tmp_path))
    assert same(model, state)
    for part in prefix.strip(".").split("."):
        assert f"'{part}.'" in told


def test_wrappers_within_a_model_are_taken_off(tmp_path: Path) -> None:
    state, model = small().state_dict(), small()
    renamed = {name.replace("0.", "0.module.", 1) if name[0] == "0" else name: t for name, t in state.items()}
    load_weights(model, saved(renamed, tmp_path))
    assert same(model, state)


def test_a_model_whose_own_names_begin_so_keeps_them(tmp_path: Path) -> None:
    source, model = nn.ModuleDict({"model": small()}), nn.ModuleDict({"model": small()})
    assert load_weights(model, saved(source.state_dict(), tmp_path)) == ()
    assert same(model, source.state_dict())


def test_a_prefix_is_no_excuse_for_names_that_do_not_fit(tmp_path: Path) -> None:
    renamed = {f"module.{name}": tensor for name, tensor in small().state_dict().items() if name != "2.bias"}
    with pytest.raises(ModelError, match=r"1 missing \(2.bias\)"):
        load_weights(small(), saved(renamed, tmp_path))


def test_bookkeeping_is_ignored_and_said(tmp_path: Path) -> None:
    state, model = AveragedModel(small()).state_dict(), small()
    state |= {"module.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    told = load_weights(model, saved(state, tmp_path))
    assert "n_averaged, total_ops, total_params" in told[1]
    assert same(model, {name[7:]: tensor for name, tensor in state.items() if name[7:] in model.state_dict()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_widths_become_float32_and_that_is_said(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in small().state_dict().items()}
    (told,) = load_weights(model := small(), saved(state, tmp_path))
    assert f"are {str(dtype)[6:]}; they became float32" in told
    assert same(model, {name: t.float() if t.is_floating_point() else t for name, t in state.items()})


def test_counters_that_a_cast_made_floats_are_counters(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in small().state_dict().items()}
    assert "float16" in load_weights(small(), saved(state, tmp_path))[0]


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_what_is_no_float_is_no_weight(tmp_path: Path, dtype: torch.dtype) -> None:
    state = small().state_dict()
    state["0.weight"] = state["0.weight"].to(dtype)
    _refused(saved(state, tmp_path), rf"0.weight is {str(dtype)[6:]}, float32 here")


def test_tensors_without_all_their_numbers_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    for odd, words in ((state["2.weight"].to_sparse(), "sparse_coo"), (state["2.weight"].to("meta"), "on meta")):
        _refused(saved({**state, "2.weight": odd}, tmp_path), f"2.weight is .*{words}")
        both = {name: {**state, "2.weight": odd} for name in ("model", "ema")}
        _refused(saved(both, tmp_path), r"more than once: model, ema")


def test_prefixes_without_end_end(tmp_path: Path) -> None:
    chain = ("model.", "net.", "backbone.", "encoder.", "network.")
    state = {"".join(chain[(start + step) % 5] for step in range(40)) + str(start): torch.ones(1) for start in range(5)}
    _refused(saved(state, tmp_path), "holds weights of another model")


def test_doubles_that_float32_cannot_hold_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    state["0.weight"] = state["0.weight"].double() * 1e300
    _refused(saved(state, tmp_path), r"not finite: 1 damaged \(0.weight\)")


def test_a_head_of_other_classes_is_said_so(tmp_path: Path) -> None:
    _refused(saved(small(7).state_dict(), tmp_path), r"is trained for 7 classes and Sequential is made for 2 here")


def _weight_norm(model: nn.Sequential) -> None:
    parametrizations.weight_norm(model[0])


def _old_weight_norm(model: nn.Sequential) -> None:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[0])


def _spectral_norm(model: nn.Sequential) -> None:
    parametrizations.spectral_norm(model[0])


def _old_spectral_norm(model: nn.Sequential) -> None:
    nn.utils.spectral_norm(model[0])


def _pruned(model: nn.Sequential) -> None:
    prune.l1_unstructured(model[0], "weight", amount=0.5)


@pytest.mark.parametrize("change", [_weight_norm, _old_weight_norm, _spectral_norm, _old_spectral_norm, _pruned])
def test_weights_in_parts_for_a_model_that_has_them_whole_are_one_sentence(tmp_path: Path, change: Any) -> None:
    change(model := small())
    _refused(
        saved(model.state_dict(), tmp_path), "holds weights in parts, of .* has them whole; call remove_weight_norm"
    )


def test_weights_in_parts_fit_a_model_in_parts(tmp_path: Path) -> None:
    _weight_norm(source := small())
    _weight_norm(model := small())
    load_weights(model, saved(source.state_dict(), tmp_path))
    parametrize.remove_parametrizations(source[0], "weight")
    parametrize.remove_parametrizations(model[0], "weight")
    assert same(model, source.state_dict())


class Shared(nn.Module):
    """One layer under two names, and one weight of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.alias = self.first


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.alias = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)


def test_safetensors_of_save_model_that_leave_shared_tensors_out_load(tmp_path: Path) -> None:
    source = Shared()
    save_model(source, str(tmp_path / "w.safetensors"))
    for target in (Shared(), Apart()):  # one that shares them too, and one that has them apart
        load_weights(target, tmp_path / "w.safetensors")
        assert same(target, source.state_dict())
    plain = nn.ModuleDict({"first": nn.Linear(4, 4)})
    with pytest.raises(ModelError, match=r"1 not in the model \(second.bias\)"):
        load_weights(plain, tmp_path / "w.safetensors")


def test_a_tensor_of_several_names_is_whole_with_one_of_them(tmp_path: Path) -> None:
    source = Shared()
    state = {name: t.clone() for name, t in source.state_dict().items() if name not in ("second.weight", "alias.bias")}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(target := Shared(), tmp_path / "w.safetensors")
    assert same(target, source.state_dict())
    state["alias.weight"] = state["first.weight"] + 1
    with pytest.raises(ModelError, match=r"different values for first.weight and alias.weight, which are one tensor"):
        load_weights(target, saved(state, tmp_path))
    assert same(target, source.state_dict())


def _refused(path: Path, words: str) -> None:
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=words):
        load_weights(model, path)
    assert same(model, before)
