"""Other people's pickles: the authors' form gives the golden record back, everything else is refused by name."""

import collections
import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.policy.indicators import Indicators, PinnedLayer
from limpq_deploy.policy.interchange.authors_pickle import load_plain_pickle, read_authors_pickle
from limpq_deploy.policy.interchange.layer_sizes import LayerSize, ShapesFile, load_shapes

GOLDEN = Path(__file__).parents[3] / "golden" / "resnet50_official_macs.indicators.json"


@pytest.fixture(scope="module")
def golden() -> Indicators:
    return load_record(Indicators, GOLDEN)


def authors_form(indicators: Indicators) -> dict[str, Any]:
    """What their extractor dumps: bits as strings, widest first, layers in order."""

    def table(kind: str) -> dict[str, dict[str, float]]:
        return {
            layer.name: {
                str(bits): value
                for bits, value in zip(reversed(indicators.bits), reversed(getattr(layer, kind)), strict=True)
            }
            for layer in indicators.layers
        }

    names = [layer.name for layer in indicators.layers]
    return {"weight": table("weight"), "act": table("act"), "layer_name": names}


def pickled(folder: Path, content: Any, protocol: int = 4) -> Path:
    path = folder / "indicators.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_authors_form_gives_the_golden_record_back(tmp_path: Path, golden: Indicators, protocol: int) -> None:
    path = pickled(tmp_path, authors_form(golden), protocol)
    found = read_authors_pickle(path, load_shapes(GOLDEN))
    assert replace(found, source=golden.source) == golden
    assert found.source["file"] == "indicators.pkl"
    assert found.source["shapes"]["file"] == GOLDEN.name


def renamed(content: dict[str, Any], name_of: Callable[[str], str]) -> dict[str, Any]:
    """Every layer under another name, everywhere."""
    return {
        "weight": {name_of(name): scales for name, scales in content["weight"].items()},
        "act": {name_of(name): scales for name, scales in content["act"].items()},
        "layer_name": [name_of(name) for name in content["layer_name"]],
    }


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.module.", "module._orig_mod."])
def test_names_of_a_wrapped_model_are_those_of_the_model(tmp_path: Path, golden: Indicators, prefix: str) -> None:
    """As published: the extractor reads the names of a DistributedDataParallel model, its pinned layers included."""
    content = authors_form(golden)
    content["layer_name"] = ["conv1", *content["layer_name"], "fc"]
    for name in ("conv1", "fc"):
        content["weight"][name] = content["act"][name] = {"8": 0.5}
    path = pickled(tmp_path, renamed(content, lambda name: prefix + name))
    found = read_authors_pickle(path, load_shapes(GOLDEN))
    assert replace(found, source=golden.source) == golden
    assert found.source["taken_off_names"] == [prefix]
    assert found.source["left_out"] == ["conv1", "fc"]


def test_a_prefix_that_is_part_of_the_models_own_names_stays(tmp_path: Path, golden: Indicators) -> None:
    sizes = tuple(
        LayerSize(name=f"module.{one.name}", macs=one.macs, num_weights=one.num_weights) for one in golden.layers
    )
    write_record(ShapesFile(model="resnet50", layers=sizes), tmp_path / "shapes.json")
    path = pickled(tmp_path, renamed(authors_form(golden), lambda name: f"module.{name}"))
    found = read_authors_pickle(path, load_shapes(tmp_path / "shapes.json"))
    assert [layer.name for layer in found.layers] == [f"module.{layer.name}" for layer in golden.layers]
    assert "taken_off_names" not in found.source


def test_a_layer_with_and_without_a_prefix_is_refused(tmp_path: Path, golden: Indicators) -> None:
    content = authors_form(golden)
    name = golden.layers[0].name
    content["weight"][f"module.{name}"] = content["weight"][name]
    with pytest.raises(RecordError, match="both with and without a wrapper's prefix"):
        read_authors_pickle(pickled(tmp_path, content), load_shapes(GOLDEN))


def test_a_prefix_on_some_tables_only_is_taken_off_there(tmp_path: Path, golden: Indicators) -> None:
    content = authors_form(golden)
    content["act"] = renamed(content, lambda name: f"module.{name}")["act"]
    found = read_authors_pickle(pickled(tmp_path, content), load_shapes(GOLDEN))
    assert found.layers == golden.layers


def test_without_shapes_the_user_is_told_what_the_pickle_lacks(tmp_path: Path, golden: Indicators) -> None:
    path = pickled(tmp_path, authors_form(golden))
    with pytest.raises(RecordError, match=r"52 layers, but neither MACs nor weight counts.*--shapes"):
        read_authors_pickle(path, None)


def test_shapes_may_come_from_a_file_of_their_own(tmp_path: Path, golden: Indicators) -> None:
    sizes = tuple(LayerSize(name=one.name, macs=one.macs, num_weights=one.num_weights) for one in golden.layers)
    write_record(ShapesFile(model="resnet50", layers=sizes, pinned=golden.pinned), tmp_path / "shapes.json")
    found = read_authors_pickle(pickled(tmp_path, authors_form(golden)), load_shapes(tmp_path / "shapes.json"))
    assert replace(found, source=golden.source) == golden


def test_a_missing_layer_name_list_leaves_the_order_of_the_weights(tmp_path: Path, golden: Indicators) -> None:
    content = authors_form(golden)
    del content["layer_name"]
    assert replace(read_authors_pickle(pickled(tmp_path, content), load_shapes(GOLDEN)), source=0) == replace(
        golden, source=0
    )


def test_entries_of_pinned_layers_are_left_out_and_named(tmp_path: Path, golden: Indicators) -> None:
    content = authors_form(golden)
    content["layer_name"].insert(0, "conv1")
    content["weight"]["conv1"] = content["act"]["conv1"] = {"8": 0.5}
    found = read_authors_pickle(pickled(tmp_path, content), load_shapes(GOLDEN))
    assert found.layers == golden.layers
    assert found.source["left_out"] == ["conv1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it.pop("act"), r"keys \['layer_name', 'weight'\].*expected a dictionary with 'weight' and 'act'"),
        (lambda it: it.update(act=[]), r"expected a dictionary with 'weight' and 'act'"),
        (lambda it: it["act"]["layer1.0.conv1"].pop("3"), r"act of layer 'layer1.0.conv1' has scales for \[2, 4, 5, 6"),
        (lambda it: it["act"].pop("layer1.0.conv1"), r"'layer1.0.conv1' has no act scales"),
        (lambda it: it["weight"]["layer1.0.conv1"].update({"3": "x"}), r"at 3 bits is a str; expected a number"),
        (lambda it: it["weight"]["layer1.0.conv1"].update({"3": True}), r"at 3 bits is a bool"),
        (lambda it: it["weight"]["layer1.0.conv1"].update({"3": 10**400}), r"at 3 bits is beyond all numbers"),
        (lambda it: it["weight"]["layer1.0.conv1"].update({"3": float("nan")}), r"indicator of nan at 3 bits"),
        (lambda it: it["weight"]["layer1.0.conv1"].update({"3": -1.0}), r"indicator of -1.0 at 3 bits"),
        (lambda it: it["weight"]["layer1.0.conv1"].update({"0": 1.0}), r"has the key '0'; expected a bit-width"),
        (lambda it: it["weight"]["layer1.0.conv1"].update({3: 1.0}), r"lists 3 bits twice"),
        (lambda it: it["weight"].update({7: {}}), r"names a layer by a int"),
        (lambda it: it["layer_name"].append("layer1.0.conv1"), r"lists 'layer1.0.conv1' 2 times"),
        (lambda it: it["layer_name"].append("head"), r"'head' has no shape in .*\(1 such layers; 53 in the pickle"),
        (lambda it: it["layer_name"].pop(), r"'layer4.2.conv3' has no scales beside"),
        (lambda it: it.update(layer_name="abc"), r"layer_name is a str; expected a list"),
    ],
)
def test_another_form_is_refused_with_what_was_found(
    tmp_path: Path, golden: Indicators, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = authors_form(golden)
    change(content)
    with pytest.raises(RecordError, match=message):
        read_authors_pickle(pickled(tmp_path, content), load_shapes(GOLDEN))


class Runs:
    """Touches a file when it is unpickled the ordinary way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_in_a_pickle_is_never_made(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    path = pickled(tmp_path, {"weight": Runs(trap)}, protocol)
    with pytest.raises(RecordError, match=r"asks for the Python object .*, which was refused"):
        load_plain_pickle(path)
    assert not trap.exists()
    pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap does work


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (np.float32(1.5), r"numpy\.\S*multiarray\.scalar"),
        (np.ones(2), r"numpy\.\S*_reconstruct|numpy\.\S*_frombuffer"),
        (torch.ones(2), r"torch\._utils\._rebuild_tensor_v2"),
        (collections.OrderedDict(a=1), r"collections\.OrderedDict"),
        (Decimal(1), r"decimal\.Decimal"),
        (print, r"builtins\.print"),
    ],
)
def test_classes_and_functions_are_refused_by_their_name(tmp_path: Path, content: object, name: str) -> None:
    with pytest.raises(RecordError, match=name):
        load_plain_pickle(pickled(tmp_path, {"weight": [1.0, content]}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", r"os\.system"),
        (b"(S'true'\nios\nsystem\n.", r"os\.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", r"os\.system"),
        (b"Pname\n.", r"outside the file"),
        (b"\x80\x04N\x82\x07.", r"refused|no whole pickle"),
    ],
)
def test_hand_made_attacks_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(data)
    with pytest.raises(RecordError, match=message):
        load_plain_pickle(path)


@pytest.mark.parametrize("content", [b"bytes", bytearray(b"more"), {1, 2}, frozenset((1,)), {"a": b"deep"}])
def test_other_builtin_kinds_are_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(RecordError, match="refused"):
        load_plain_pickle(pickled(tmp_path, content, protocol=5))


def test_a_few_bytes_cannot_claim_much_memory(tmp_path: Path) -> None:
    """The C unpickler would allocate 8 bytes for every entry below a memo index of 2^32 - 1."""
    path = tmp_path / "bomb.pkl"
    path.write_bytes(b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b".")
    with pytest.raises(RecordError, match="memo entry"):
        load_plain_pickle(path)
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.")
    with pytest.raises(RecordError, match=r"no whole pickle|refused"):
        load_plain_pickle(path)


def test_a_large_file_and_a_checkpoint_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="more than 100 bytes"):
        load_plain_pickle(pickled(tmp_path, ["x" * 200]), max_bytes=100)
    torch.save({"a": torch.ones(1)}, tmp_path / "model.pth")
    with pytest.raises(RecordError, match="zip archive"):
        load_plain_pickle(tmp_path / "model.pth")
    with pytest.raises(RecordError, match="cannot read"):
        load_plain_pickle(tmp_path / "absent.pkl")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(content=plain, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_back_as_it_was(content: object, protocol: int, tmp_path_factory: Any) -> None:
    assert load_plain_pickle(pickled(tmp_path_factory.getbasetemp(), content, protocol)) == content


@given(data=st.binary(max_size=60), cut=st.integers(0, 40))
def test_damaged_bytes_raise_one_sentence(data: bytes, cut: int, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(pickle.dumps({"weight": {"a": {"2": 1.0}}})[:cut] + data)
    said, found = "", None
    try:
        found = load_plain_pickle(path)
    except RecordError as error:
        said = str(error)
    if said:
        assert said.startswith(str(path))
    else:
        assert pickle.Unpickler(io.BytesIO(path.read_bytes())).load() == found


def test_shapes_with_another_format_or_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shapes.json"
    path.write_text('{"format": "limpq.policy/1"}')
    with pytest.raises(RecordError, match=r"limpq\.policy/1"):
        load_shapes(path)
    path.write_text("{")
    with pytest.raises(RecordError, match="not valid JSON"):
        load_shapes(path)
    with pytest.raises(RecordError, match="cannot read"):
        load_shapes(tmp_path / "absent.json")


def test_negative_shapes_are_refused(tmp_path: Path) -> None:
    sizes = (LayerSize(name="a", macs=-1, num_weights=1),)
    pinned = (PinnedLayer(name="stem", macs=1, num_weights=1, weight_bits=8, act_bits=8),)
    write_record(ShapesFile(model="m", layers=sizes, pinned=pinned), tmp_path / "shapes.json")
    path = pickled(tmp_path, {"weight": {"a": {"2": 1.0}}, "act": {"a": {"2": 1.0}}})
    with pytest.raises(RecordError, match="negative macs"):
        read_authors_pickle(path, load_shapes(tmp_path / "shapes.json"))
