"""Settings: options over a file over defaults, checked, kept, and told as a command."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import RecordError, SettingError
from limpq_deploy.cli.main import main
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.pipeline.config import Config, Training, load_config, make_config, write_config


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('like = "w3a3"\nseed = 7\nbits = [2, 4]\n[training]\nfloat-steps = 9\n')
    config = make_config({"seed": 8, "like": None}, file)
    assert (config.like, config.seed, config.bits, config.model) == ("w3a3", 8, (2, 4), "resnet8")
    assert config.training == Training(float_steps=9)


def test_an_error_names_the_file_or_the_option_that_is_to_blame(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("seed = 1\n")
    with pytest.raises(SettingError, match=r"^--pinned-bits is 1; expected 2 to 8$"):
        make_config({"pinned_bits": 1}, file)
    file.write_text("pinned-bits = 1\n")
    with pytest.raises(RecordError, match=r"settings\.toml: pinned_bits is 1; expected 2 to 8$"):
        make_config({"pinned_bits": 8}, file)


def test_w4a4_is_the_budget_only_where_no_other_is_given() -> None:
    assert Config().budget_like == "w4a4"
    assert Config(max_mib=1.0).budget_like is None
    assert Config(like="w3a3", max_mib=1.0).budget_like == "w3a3"


configs = st.builds(
    Config,
    model=st.sampled_from(["resnet8", "my.module:factory"]),
    weights=st.sampled_from([None, Path("/weights of mine.safetensors")]),
    bits=st.sampled_from([(2, 3), (4,), (2, 3, 4, 5, 6)]),
    like=st.sampled_from([None, "w3a4"]),
    max_mib=st.none() | st.floats(0.01, 100),
    target=st.sampled_from([None, "tensorrt"]),
    space=st.sampled_from([None, "w*a8"]),
    pin=st.lists(st.sampled_from(["a=w4a4", "layer1.*=w8a8"])).map(tuple),
    tie=st.sampled_from([(), ("a,b", "layer1.*")]),
    alpha=st.floats(0, 10),
    solver=st.sampled_from(["auto", "own", "cbc", "highs"]),
    engine=st.booleans(),
    seed=st.integers(0, 2**40),
    training=st.builds(Training, float_steps=st.none() | st.integers(1, 10)),
)


@given(config=configs)
def test_a_configuration_survives_its_file(config: Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("config") / "config.json"
    write_config(config, file)
    assert load_config(file) == config


@given(config=configs)
def test_the_command_asks_for_the_same_configuration(config: Config) -> None:
    words = shlex.split(config.command_line(), comments=True)
    assert words[:2] == ["limpq-deploy", "build"]
    command = main.commands["build"]
    with command.make_context("build", words[2:]) as context:
        options = {key: value for key, value in context.params.items() if key not in ("config", "fresh", "as_json")}
    assert make_config({**options, "training": config.training}) == config


def test_files_of_the_user_are_kept_as_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(Config(weights=Path("w.safetensors"), data="imagefolder:images"), tmp_path / "config.json")
    kept = load_config(tmp_path / "config.json")
    assert kept.weights == tmp_path / "w.safetensors"
    assert kept.data == f"imagefolder:{tmp_path / 'images'}"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "limpq.config/1", "seed": "x"}', '{"format": "other"}'])
def test_a_damaged_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RecordError, match=r"is not a limpq\.config/1 file; run the build again"):
        load_config(tmp_path / "config.json")


def test_every_setting_is_an_option_of_build() -> None:
    from dataclasses import fields

    options = {parameter.name for parameter in main.commands["build"].params}
    assert {field.name for field in fields(Config)} - {"training"} <= options
    assert CliRunner().invoke(main, ["build", "--help"]).exit_code == 0


def test_one_activation_width_is_among_the_bits_and_sets_the_default_budget() -> None:
    config = make_config({"act_bits": 8, "bits": (2, 4, 8)})
    assert config.budget_like == "w4a8"
    assert "--act-bits 8" in config.command_line()
    assert make_config({"act_bits": 8, "bits": (2, 4, 8), "max_mib": 1.0}).budget_like is None
    with pytest.raises(SettingError, match="--act-bits is 8, which bits does not list; give --bits 2,3,4,5,6,8"):
        make_config({"act_bits": 8})
    with pytest.raises(SettingError, match=r"--act-bits is 16, expected 2 to 8, or float \(32\)"):
        make_config({"act_bits": 16})
    floats = make_config({"act_bits": 32})
    assert (floats.act_width, floats.budget_like) == (32, "w4a32")
    half = make_config({"act_bits": 32, "target": "tensorrt"})
    assert (half.act_width, half.budget_like) == (16, "w4a16")
    for name, value in (("space", "w*a8"), ("scales", "pow2")):
        with pytest.raises(SettingError, match="--act-bits is float, so that weights alone are integers"):
            make_config({"act_bits": 32, name: value})


def test_flags_of_training_are_options_without_a_value() -> None:
    config = make_config({"freeze_weights": True, "data_fraction": 0.5})
    assert config.training.freeze_weights is True
    assert config.command_line() == "limpq-deploy build --data-fraction 0.5 --freeze-weights"


def test_settings_of_the_engines_builder_come_from_options_and_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('target = "tensorrt"\nbatch = "1:4:8"\nbuilder-level = 5\nbuilds = 2\n')
    config = make_config({"workspace_mib": 512, "builds": 3}, file)
    batch = BatchRange(least=1, best=4, most=8)
    assert config.engine_options == EngineOptions(batch=batch, workspace_mib=512, level=5, builds=3)
    line = config.command_line()
    assert line.endswith("--target tensorrt --batch 1:4:8 --workspace-mib 512 --builder-level 5 --builds 3")
    assert make_config({"target": "tensorrt", "builder_level": 0}).engine_options == EngineOptions(level=0)
    assert make_config({"target": "tensorrt"}).engine_options is None


def test_the_float_type_of_engines_and_tf32_come_from_options_and_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('target = "tensorrt"\ntf32 = false\n')
    config = make_config({"float_type": "float32"}, file)
    assert config.engine_options == EngineOptions(float_type="float32", tf32=False)
    assert config.command_line().endswith("--target tensorrt --float-type float32 --no-tf32")
    assert make_config({"target": "tensorrt", "tf32": False}).engine_options == EngineOptions(tf32=False)
    with pytest.raises(SettingError, match=r"^--no-tf32 has no effect without --target tensorrt$"):
        make_config({"tf32": False})
    with pytest.raises(SettingError, match=r"^--float-type is float16, which has no effect without --target tensorrt"):
        make_config({"float_type": "float16", "target": "onnxruntime"})
    with pytest.raises(SettingError, match=r"^--float-type is 'half'; expected 'float16' or 'float32'$"):
        make_config({"float_type": "half", "target": "tensorrt"})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("workspace_mib", 0, "--workspace-mib is 0; expected at least 1"),
        ("builds", 0, "--builds is 0; expected at least 1"),
        ("builder_level", -1, "--builder-level is -1; expected 0 to 5"),
        ("builder_level", 6, "--builder-level is 6; expected 0 to 5"),
    ],
)
def test_a_builder_setting_out_of_range_is_refused(name: str, value: int, expected: str) -> None:
    with pytest.raises(SettingError, match=f"^{expected}$"):
        make_config({"target": "tensorrt", name: value})
    with pytest.raises(SettingError, match="no effect without --target tensorrt"):
        make_config({"target": "onnxruntime", name: value})


def test_a_version_of_tensorrt_needs_no_quotes_in_a_file(tmp_path: Path) -> None:
    for text, version in (("10", "10"), ("8.6", "8.6"), ('"11"', "11")):
        (tmp_path / "c.toml").write_text(f'target = "tensorrt"\ntensorrt = {text}\n')
        assert make_config({}, tmp_path / "c.toml").tensorrt == version


def test_a_native_space_of_another_target_is_refused() -> None:
    with pytest.raises(SettingError, match="another target than onnxruntime; give --space native:onnxruntime"):
        make_config({"space": "native:tensorrt"})
    assert make_config({"space": "native:tensorrt", "target": "tensorrt"}).space == "native:tensorrt"


def test_a_setting_of_the_file_may_need_an_option(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('weights-key = "ema"\n')
    assert make_config({"weights": Path("w.pth")}, file).weights_key == "ema"
    with pytest.raises(RecordError, match=r"settings\.toml: weights_key is ema, which has no effect without weights"):
        make_config({}, file)
    file.write_text("pretrained = true\n")
    assert make_config({"model": "timm/resnet18"}, file).command_line().endswith("--model timm/resnet18 --pretrained")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('lik = "w4a4"', "unknown key 'lik'; did you mean 'like'?"),
        ("[training]\nflaot_steps = 3", "unknown key 'flaot_steps'; did you mean 'float_steps'"),
        ("float_steps = 3", "unknown key 'float_steps'; it is a key of the section [training]"),
        ("[training]\nseed = 3", "unknown key 'seed'; it is a key of the file's beginning"),
        ('target = "tensort"', "did you mean 'tensorrt'"),
        ("qqq = 3", "unknown key 'qqq'; known keys most like it: ptq,"),
    ],
)
def test_a_slip_in_a_file_is_answered_with_what_was_meant(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "build.toml"
    file.write_text(text)
    with pytest.raises(RecordError) as caught:
        make_config({}, file)
    assert sentence in str(caught.value)
