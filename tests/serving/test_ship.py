"""What ship writes, what it refuses, and that a killed one leaves the old or the new repository."""

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2

from limpq_deploy.calibration.errors import ModelError, OutputError
from limpq_deploy.cli.main import main
from limpq_deploy.export.ship.atomic_folder import locked
from limpq_deploy.export.ship.repository import Keys, load_serving, roll_back
from limpq_deploy.export.ship.triton.config import ServingOptions, make_config
from limpq_deploy.export.ship.triton.config_check import check_config
from limpq_deploy.export.ship.triton.served_io import ConfigRefused, read_io
from limpq_deploy.export.ship.verify import BundleRefused, load_manifest, verify_bundle
from limpq_deploy.serving.ship import ShipRefused, ship

MakeBundle = Callable[..., Path]
CPU_TWIN = ServingOptions(backend="python")


def limpq_deploy(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def parsed(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_a_build_becomes_a_repository_that_verify_replays(make_bundle: MakeBundle, tmp_path: Path) -> None:
    done = limpq_deploy("ship", make_bundle(), tmp_path / "models", "--json")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "models/tiny"
    assert json.loads(done.stdout)["folder"] == str(folder)
    config = parsed(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 8)
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([3, 4, 4], [5])
    assert list(config.version_policy.specific.versions) == [1]
    assert not config.HasField("dynamic_batching")
    assert sorted(sample.batch_size for sample in config.model_warmup) == [1, 8]
    assert "model_analyzer.yaml" in [file.name for file in load_manifest(folder).files]
    replayed = limpq_deploy("verify", folder, "--replay", "--json")
    assert replayed.exit_code == 0, replayed.output
    assert json.loads(replayed.stdout)["canaries"]["bit_equal"]


def test_throughput_turns_batching_on_and_tells_what_it_costs(make_bundle: MakeBundle, tmp_path: Path) -> None:
    done = limpq_deploy("ship", make_bundle(), tmp_path / "models", "--throughput", "2000")
    assert "stalled for about 500 ms" in done.stderr
    batching = parsed(tmp_path / "models/tiny").dynamic_batching
    assert batching.max_queue_delay_microseconds == 2000
    assert not batching.preferred_batch_size


def test_the_next_build_is_the_next_version_and_old_ones_go(make_bundle: MakeBundle, tmp_path: Path) -> None:
    for seed in range(4):
        done = ship(make_bundle(f"b{seed}", seed), tmp_path / "models", CPU_TWIN, keep=3)
    assert (done.version, done.kept) == (4, (2, 3, 4))
    folder = tmp_path / "models/tiny"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["2", "3", "4"]
    assert (folder / "3/model.onnx").read_bytes() == (tmp_path / "b2/model.onnx").read_bytes()
    assert (folder / "1").exists() is False
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["tiny"]
    assert not list(tmp_path.glob(".*"))


def test_a_rollback_serves_an_older_version_with_its_own_labels(make_bundle: MakeBundle, tmp_path: Path) -> None:
    ship(make_bundle("old", 0), tmp_path / "models", CPU_TWIN)
    ship(make_bundle("new", 1, labels="v\nw\nx\ny\nz\n"), tmp_path / "models", ServingOptions(backend="onnxruntime"))
    folder = tmp_path / "models/tiny"
    assert (folder / "labels.txt").read_text().startswith("v")
    assert limpq_deploy("rollback", folder, "1").exit_code == 0
    assert load_serving(folder).active == 1
    assert (folder / "labels.txt").read_text().startswith("a")
    assert (parsed(folder).backend, list(parsed(folder).version_policy.specific.versions)) == ("python", [1])
    assert load_manifest(folder).model_file == "1/model.onnx"
    assert limpq_deploy("verify", folder, "--replay").exit_code == 0
    with pytest.raises(OutputError, match="has no version 7; versions there: 1, 2"):
        roll_back(folder, 7)


def test_threads_are_told_to_the_backend_that_runs_on_a_cpu(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    for backend, parameter in (("python", "limpq.threads"), ("onnxruntime", "intra_op_thread_count")):
        limpq_deploy("ship", bundle, tmp_path / "models", "--backend", backend, "--threads", "3", "--name", backend)
        assert parsed(tmp_path / "models" / backend).parameters[parameter].string_value == "3"
    assert limpq_deploy("ship", bundle, tmp_path / "models", "--backend", "tensorrt", "--threads", "3").exit_code == 1


def test_a_failed_verdict_is_shipped_only_by_force_and_the_manifest_tells(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    verdict = {"outcome": "failed", "checks": [{"name": "accuracy_against_float", "passed": False, "detail": ""}]}
    bundle = make_bundle(verdict=verdict)
    refused = limpq_deploy("ship", bundle, tmp_path / "models")
    assert refused.exit_code == 1
    assert "verdict of this build is 'failed' (accuracy_against_float)" in refused.stderr
    assert not (tmp_path / "models").exists()
    assert limpq_deploy("ship", bundle, tmp_path / "models", "--force").exit_code == 0
    assert "--force" in load_serving(tmp_path / "models/tiny").shipped[0].forced


def test_a_missing_plan_is_refused_with_a_sentence_and_given_ones_are_named_by_capability(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    tensorrt = ServingOptions(backend="tensorrt")
    with pytest.raises(ShipRefused, match="found no TensorRT plan"):
        ship(make_bundle(), tmp_path / "models", tensorrt)
    plan = tmp_path / "some.plan"
    plan.write_bytes(b"")
    with pytest.raises(ModelError, match="missing or empty"):
        ship(make_bundle(), tmp_path / "models", tensorrt, plans={"": plan})
    plan.write_bytes(b"bytes that only a GPU server would read")
    ship(make_bundle(), tmp_path / "models", tensorrt, plans={"8.0": plan, "9.0": plan}, force=True)
    config = parsed(tmp_path / "models/tiny")
    assert config.platform == "tensorrt_plan"
    assert config.optimization.cuda.graphs
    assert dict(config.cc_model_filenames) == {"8.0": "model_cc80.plan", "9.0": "model_cc90.plan"}
    assert not config.default_model_filename  # Triton would fall back to it silently, and to model.plan
    assert sorted(path.name for path in (tmp_path / "models/tiny/1").glob("*.plan")) == [
        "model_cc80.plan",
        "model_cc90.plan",
    ]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("cc_model_filenames", lambda config: config.cc_model_filenames.update({"9.0": "model_cc80.plan"})),
        ("cc_model_filenames", lambda config: config.cc_model_filenames.update({"10.0": "model_cc100.plan"})),
        ("cc_model_filenames", lambda config: config.cc_model_filenames.clear()),
        ("default_model_filename", lambda config: setattr(config, "default_model_filename", "model.plan")),
        ("platform", lambda config: setattr(config, "platform", "onnxruntime_onnx")),
        ("instance_group.kind", lambda config: setattr(config.instance_group[0], "kind", 2)),
    ],
)
def test_a_configuration_that_names_other_plans_than_are_shipped_is_refused(
    field: str, change: Callable[[Any], object], make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle, tensorrt = make_bundle(), ServingOptions(backend="tensorrt")
    plan = tmp_path / "some.plan"
    plan.write_bytes(b"bytes that only a GPU server would read")
    plans = {"8.0": plan, "9.0": plan}
    ship(bundle, tmp_path / "models", tensorrt, plans=plans, force=True)
    config = parsed(tmp_path / "models/tiny")
    change(config)
    (tmp_path / "own.pbtxt").write_text(text_format.MessageToString(config))
    with pytest.raises(ConfigRefused) as refused:
        ship(bundle, tmp_path / "other", tensorrt, plans=plans, config=tmp_path / "own.pbtxt", force=True)
    assert refused.value.field == field


def edit(path: str, value: Any) -> Callable[[Any], None]:
    """Set a field of a configuration: "input.0.name"."""

    def change(config: Any) -> None:
        *way, last = path.split(".")
        for step in way:
            config = config[int(step)] if step.isdigit() else getattr(config, step)
        if isinstance(value, list):
            del getattr(config, last)[:]
            getattr(config, last).extend(value)
        else:
            setattr(config, last, value)

    return change


WRONG: list[tuple[str, Callable[[Any], object]]] = [
    ("name", edit("name", "other")),
    ("backend", edit("backend", "pytorch")),
    ("default_model_filename", edit("default_model_filename", "other.onnx")),
    ("max_batch_size", edit("max_batch_size", 0)),
    ("input.name", edit("input.0.name", "pixels")),
    ("input.dims", edit("input.0.dims", [3, 8, 8])),
    ("input.data_type", edit("input.0.data_type", model_config_pb2.TYPE_UINT8)),
    ("input", lambda config: config.input.add(name="more")),
    ("output.name", edit("output.0.name", "scores")),
    ("output.dims", edit("output.0.dims", [1000])),
    ("output.data_type", edit("output.0.data_type", model_config_pb2.TYPE_INVALID)),
    ("output.label_filename", edit("output.0.label_filename", "../../labels.txt")),
    ("model_warmup.batch_size", edit("model_warmup.0.batch_size", 9)),
    ("model_warmup.inputs", lambda config: config.model_warmup[0].inputs["pixels"].dims.append(3)),
    ("instance_group", lambda config: config.ClearField("instance_group")),
    ("instance_group.kind", edit("instance_group.0.kind", model_config_pb2.ModelInstanceGroup.KIND_GPU)),
    ("version_policy", lambda config: config.version_policy.latest.SetInParent()),
    ("version_policy", edit("version_policy.specific.versions", [2])),
    ("dynamic_batching.preferred_batch_size", edit("dynamic_batching.preferred_batch_size", [16])),
    ("optimization.cuda.graphs", edit("optimization.cuda.graphs", True)),
]


@pytest.mark.parametrize(("field", "change"), WRONG)
def test_a_wrong_configuration_is_refused_by_its_field_before_anything_is_written(
    field: str, change: Callable[[Any], object], make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle()
    text = make_config("tiny", read_io(bundle / "model.onnx"), CPU_TWIN, 1, {}, {}, "abcde")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    change(config)
    own = tmp_path / "own.pbtxt"
    own.write_text(text_format.MessageToString(config))
    with pytest.raises(ConfigRefused, match=rf"^config.pbtxt, {field}: ") as refused:
        ship(bundle, tmp_path / "models", CPU_TWIN, config=own)
    assert refused.value.field == field
    assert not list((tmp_path / "models").iterdir())


def test_ones_own_good_configuration_is_taken(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    own = tmp_path / "own.pbtxt"
    own.write_text(make_config("tiny", read_io(bundle / "model.onnx"), CPU_TWIN, 1, {"team": "vision"}, {}, "abcde"))
    ship(bundle, tmp_path / "models", CPU_TWIN, config=own)
    assert parsed(tmp_path / "models/tiny").parameters["team"].string_value == "vision"
    own.write_text("maximum_batch: 3")
    with pytest.raises(ConfigRefused, match="maximum_batch"):
        ship(bundle, tmp_path / "models", CPU_TWIN, config=own)


def test_what_ones_own_configuration_says_itself_is_refused_beside_it(make_bundle: MakeBundle, tmp_path: Path) -> None:
    own = tmp_path / "own.pbtxt"
    own.write_text("")
    options = ("--config", own, "--instances", "2", "--throughput", "100")
    done = limpq_deploy("ship", make_bundle(), tmp_path / "models", *options)
    assert done.exit_code == 1
    assert "--instances and --throughput have no effect with --config" in done.output
    assert not (tmp_path / "models").exists()


def test_labels_are_as_many_as_classes(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match=r"labels.txt has 2 labels; the model has 5 classes"):
        ship(make_bundle(labels="a\nb\n"), tmp_path / "models", CPU_TWIN)


@pytest.mark.parametrize("label", ["\x1b[2J", "\u202ex", "n" * 5000, "a\rb"])
def test_a_label_that_a_client_would_obey_is_refused(label: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(labels=f"v\nw\nx\ny\n{label}\n")
    with pytest.raises(ConfigRefused, match=r"output\.label_filename") as refused:
        ship(bundle, tmp_path / "models", CPU_TWIN)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["images\x1b]0;owned\x07", "i" * 5000])
def test_a_tensor_name_that_a_terminal_obeys_reaches_no_configuration(
    name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    model = onnx.load(make_bundle() / "model.onnx")
    for node in model.graph.node:
        node.input[:] = [name if one == model.graph.input[0].name else one for one in node.input]
    model.graph.input[0].name = name
    onnx.save(model, tmp_path / "hostile.onnx")
    with pytest.raises(ConfigRefused, match=r"input\.name") as refused:
        read_io(tmp_path / "hostile.onnx")
    assert str(refused.value).isprintable()


def test_a_model_with_a_fixed_batch_is_served_one_by_one(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    model = onnx.load(bundle / "model.onnx")
    for batch in (1, 4):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        onnx.save(model, bundle.parent / "fixed.onnx")
        io = read_io(bundle.parent / "fixed.onnx")
        with pytest.raises(ConfigRefused, match=f"takes only batches of {batch}"):
            check_config(
                make_config("tiny", io, CPU_TWIN, 1, {}, {}, "abcde"),
                name="tiny", io=io, backend="python", labels="abcde", versions=[1],
            )  # fmt: skip


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/passwd"])
def test_external_data_is_refused_by_name(place: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    model = onnx.load(bundle / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    (tmp_path / "evil.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=f"external file '{place}'"):
        read_io(tmp_path / "evil.onnx")


def test_too_little_space_is_told_before_anything_is_written(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limpq_deploy.export.ship.repository.SPARE_BYTES", 2**62)  # no disk has that
    with pytest.raises(OutputError, match="bytes free; the new version needs"):
        ship(make_bundle(), tmp_path / "models", CPU_TWIN)
    assert not list((tmp_path / "models").iterdir())


def test_a_damaged_repository_is_not_carried_on_and_a_foreign_folder_not_touched(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle()
    ship(bundle, tmp_path / "models", CPU_TWIN)
    (tmp_path / "models/tiny/1/model.py").write_text("import os")
    with pytest.raises(BundleRefused, match=r"'1/model.py' has 9 bytes"):
        ship(bundle, tmp_path / "models", CPU_TWIN)
    names = ("models/mine", ".models.mine.backup.tmp", ".models.other.backup.tmp", "models/.other.backup.tmp")
    mine = [tmp_path / name / "notes.txt" for name in names]
    for note in mine:
        note.parent.mkdir()
        note.write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match="was not written by ship"):
            ship(bundle, tmp_path / "models", CPU_TWIN, name="mine", force=force)
    ship(bundle, tmp_path / "models", CPU_TWIN, name="other", force=True)
    assert [note.read_text() for note in mine] == ["mine"] * 4
    with pytest.raises(OutputError, match="no name of a model"):
        ship(bundle, tmp_path / "models", CPU_TWIN, name="../out")


def test_a_second_writer_is_sent_away(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    (tmp_path / "models").mkdir()
    with locked(tmp_path / "models"), pytest.raises(OutputError, match="another process is writing"):
        ship(bundle, tmp_path / "models", CPU_TWIN)


def test_a_rollback_of_a_signed_repository_needs_the_key(
    make_bundle: MakeBundle, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    both = Keys(private=keys[0], public=keys[1])
    for seed in (0, 1):
        ship(make_bundle(f"b{seed}", seed), tmp_path / "models", CPU_TWIN, keys=both)
    folder = tmp_path / "models/tiny"
    assert "is signed; give --key PUB" in limpq_deploy("rollback", folder, "1", "--sign", keys[0]).stderr
    with pytest.raises(OutputError, match="is signed; give --key PUB"):
        ship(make_bundle("b2", 2), tmp_path / "models", CPU_TWIN)
    done = limpq_deploy("rollback", folder, "1", "--sign", keys[0], "--key", keys[1])
    assert done.exit_code == 0, done.output
    assert limpq_deploy("verify", folder, "--no-replay", "--key", keys[1]).exit_code == 0


def ship_in_a_child(bundle: Path, repository: Path, kill_at: int = 0) -> int:
    """Ship in a process of its own that kills itself with SIGKILL just before the ``kill_at``-th thing that it asks of
    the file system; how many it asked for, 0 where it was killed."""
    asked, tell = os.pipe()
    child = os.fork()
    if child == 0:
        steps = 0

        def count(event: str, arguments: object) -> None:
            nonlocal steps
            if event == "open" or event.startswith(("os.", "shutil.", "fcntl.", "tempfile.", "ctypes.")):
                steps += 1
                if steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            ship(bundle, repository, CPU_TWIN)
            os.write(tell, str(steps).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(asked) as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return int(told or 0)


def kill_ships(make_bundle: MakeBundle, root: Path, kills: int) -> tuple[int, int]:
    """Kill that many ships at random steps; (left as it was, new version in place)."""
    bundles = [make_bundle(f"b{seed}", seed) for seed in (0, 1)]
    models = [(bundle / "model.onnx").read_bytes() for bundle in bundles]
    repository = root / "models"
    version = 4
    for number in range(version):
        steps = ship_in_a_child(bundles[number % 2], repository)
    moments, killed, old, new = random.Random(0), 0, 0, 0
    while killed < kills:  # a ship after a killed one takes more steps, as it clears what that one left
        killed += ship_in_a_child(bundles[version % 2], repository, moments.randint(1, 3 * steps // 2)) == 0
        verify_bundle(repository / "tiny")
        serving = load_serving(repository / "tiny")
        assert serving.active in (version, version + 1)
        assert (repository / f"tiny/{serving.active}/model.onnx").read_bytes() == models[(serving.active + 1) % 2]
        assert list(parsed(repository / "tiny").version_policy.specific.versions) == [serving.active]
        assert [path.name for path in repository.iterdir()] == ["tiny"]  # nothing that a server would take for a model
        old, new = old + (serving.active == version), new + (serving.active != version)
        version = serving.active
    ship(bundles[version % 2], repository, CPU_TWIN)
    assert not list(root.glob(".*.tmp"))  # what the killed ones left is gone
    return old, new


def test_a_ship_killed_at_any_of_fifty_steps_leaves_the_old_or_the_new_repository(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    old, new = kill_ships(make_bundle, tmp_path, 50)
    assert old
    assert new
