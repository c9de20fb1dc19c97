"""What a build is about: the model, its data, its placement. Opened and checked before any work is done."""

import copy
import hashlib
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from limpq_deploy.calibration.datasets import (
    KINDS,
    DataSet,
    Preprocess,
    hold_out,
    open_calibration,
    open_dataset,
    require_classes,
)
from limpq_deploy.calibration.errors import LimpqError, MissingExtra, RuntimeUnavailable
from limpq_deploy.calibration.factories import is_factory_name, load_factory
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.in_memory import in_memory
from limpq_deploy.export.graph.refilled import EmptyGraph
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import FileForm, TargetSpec
from limpq_deploy.export.records.tensorrt_versions import form_for
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import BuildsElsewhere, Runtime
from limpq_deploy.export.runtimes.onnxruntime.as_written import AsWritten
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import split
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.given_model import PlainModel, copied, in_float32, plain
from limpq_deploy.model.layers import TracedModel, trace, written_graph
from limpq_deploy.model.place import place
from limpq_deploy.model.zoo import MODELS, ModelInfo, create_model, known_info
from limpq_deploy.model.zoo.published import published_file
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.deployed import Start
from limpq_deploy.pipeline.start import take_weights
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy
from limpq_deploy.tasks.agreement import by_float
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.classification import Classification
from limpq_deploy.tasks.names import DEFAULT_TASK, factory_of
from limpq_deploy.tasks.open_task import open_task
from limpq_deploy.train.checkpoints import CheckpointInfo, load_module
from limpq_deploy.train.float_training import trainable
from limpq_deploy.train.judge import Judge
from limpq_deploy.workspace.sources import user_sources

HELD_OUT_IMAGES = 2000
"""At most so many of the held-out training images are looked at."""


class Subject:
    """Model, data, target and placement of one configuration; each is made once, when it is first asked for."""

    def __init__(self, config: Config) -> None:
        self.config = self.asked = config
        self._formats: tuple[str, ...] = ()
        self.empty_graph: EmptyGraph | None = None
        """The float graph, once it was exported."""

    def require_data_of_task(self) -> None:
        """Raise DataError where the data have other classes than the model, or not what the task asks of them."""
        if self.task.one_label and self.dataset.one_label:
            require_classes(self.dataset, self.num_classes)
        for name in ("train", "val", "test"):
            self.task.require_data(self.dataset, self.dataset.split(name))

    @cached_property
    def task(self) -> Task:
        """What the network is for."""
        return open_task(self.config.task, self.output_shapes)

    @cached_property
    def judge(self) -> Judge:
        """Who judges outputs; where there are no labels, beside a float model that `Judge.beside` takes."""
        return Judge(task=self.task, without_labels=by_float(self.output_shapes))

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of every tensor that the model gives for one image."""
        end = next(reversed(self.shapes.graph_module.graph.nodes))
        return tuple(tuple(node.meta["tensor_meta"].shape) for node in end.all_input_nodes)

    @cached_property
    def target(self) -> TargetSpec:
        return self.config.target_spec

    @cached_property
    def form(self) -> FileForm:
        """How files for the target are written."""
        return form_for(self.target, self.config.tensorrt)

    @property
    def builds_engine(self) -> bool:
        """Whether an engine is built and can be run here."""
        return self.config.engine and self.target.exportable and not self.compiles_only

    @cached_property
    def compiles_only(self) -> bool:
        """Whether an engine is built here for GPUs of other machines, as there is none that runs it here."""
        if not self.config.engine or self.target.runs_on is None:
            return False
        runtime = runtime_named(self.target.runs_on.name, self.config.engine_options)
        return isinstance(runtime, BuildsElsewhere) and runtime.unavailable() is not None

    @property
    def gpus(self) -> tuple[str, ...] | None:
        """Compute capabilities that a compiler is asked about; None: the usual ones that admit a file."""
        return None if self.config.gpus is None else split(self.config.gpus)

    def compiler(self) -> Runtime:
        """The target's runtime, where its engines are built here and run elsewhere. Raises MissingExtra where it cannot
        build them either."""
        assert self.target.runs_on is not None
        runtime = runtime_named(self.target.runs_on.name, self.config.engine_options)
        assert isinstance(runtime, BuildsElsewhere)
        why = runtime.cannot_build()
        if why is not None:
            raise MissingExtra(f"{why}; use --no-engine to stop after export")
        return runtime

    @property
    def hands_over(self) -> bool:
        """Whether the build goes as far as a CPU can, and its bundle is finished on the target: the runtime builds
        engines, none is wanted or can run here, and ONNX Runtime is here to execute the files as they are written."""
        elsewhere = self.target.builds_engines and (self.compiles_only or not self.config.engine)
        return elsewhere and AsWritten().unavailable() is None

    @property
    def measures(self) -> bool:
        """Whether there is a verdict, of an engine or of the files as written."""
        return self.builds_engine or self.hands_over

    @property
    def handed_over(self) -> bool:
        """Never: this build begins here."""
        return False

    def runtime(self) -> Runtime:
        """What executes the files here: the target's runtime, or ONNX Runtime as they are written where the build is
        handed over. Raises RuntimeUnavailable or MissingExtra where it cannot be used here."""
        assert self.target.runs_on is not None
        if self.hands_over:
            return AsWritten()
        runtime = runtime_named(self.target.runs_on.name, self.config.engine_options)
        why = runtime.unavailable()
        if why is not None:
            raise RuntimeUnavailable(f"{why}; use --no-engine to go as far as a CPU can, and finish on the target")
        return runtime

    @cached_property
    def dataset(self) -> DataSet:
        config = self.config
        known = known_info(config.model)
        preprocess = (known or self.info).preprocess
        if config.calibration is None:
            return open_dataset(config.data, preprocess, config.classes)
        dataset = open_dataset(config.data, preprocess, config.classes, needs=("test",))
        test = dataset.split("test")
        given, fingerprint = open_calibration(config.calibration, test.preprocess)
        train, val = hold_out(given)
        return replace(
            dataset,
            splits={"train": train, "val": val, "test": test},
            fingerprint=f"{dataset.fingerprint} {fingerprint}",
        )

    @cached_property
    def joint_data(self) -> DataSet:
        """What joint training sees: ``train`` less its held-out part, which is ``val`` here. Importance is measured and
        policies are previewed on the held-out part, so that ``val`` and ``test`` stay fresh for what comes after.
        """
        train, held = hold_out(self.dataset.split("train"))
        order = np.random.default_rng(self.config.seed).permutation(len(held))
        held = held.subset(np.sort(order[:HELD_OUT_IMAGES]))
        return replace(self.dataset, splits={"train": train, "val": held})

    @property
    def preprocess(self) -> Preprocess:
        return self.dataset.split("train").preprocess

    @cached_property
    def info(self) -> ModelInfo:
        return self._created[1]

    @cached_property
    def _created(self) -> tuple[nn.Module, ModelInfo]:
        """The model with the user's weights or fresh ones; a model of a library takes the data's classes, and so does a
        fresh built-in one."""
        torch.manual_seed(self.config.seed)
        known = self.config.model in MODELS
        adapts = self.config.weights is None if known else known_info(self.config.model) is not None
        adapts = adapts and self.config.task == DEFAULT_TASK and self.dataset.one_label
        model, info = create_model(self.config.model, len(self.dataset.classes) if adapts else None)
        self._formats = in_float32(model)
        self._start = take_weights(model, self.config)
        return model, info

    @cached_property
    def _plain(self) -> PlainModel:
        return plain(self._created[0])

    @property
    def foreign_weights(self) -> bool:
        """Whether weights were trained elsewhere, perhaps on images that are held out here."""
        return self.config.weights is not None or self.config.pretrained or in_memory(self.config.model)

    @property
    def start(self) -> Start:
        """What the float model starts from."""
        assert self._created
        return self._start

    @property
    def model(self) -> nn.Module:
        """The float model that is traced and trained; its weights are those of the float stage once that has run."""
        return self._plain.model

    @property
    def trainable_model(self) -> nn.Module:
        """`model`, or a graph of the same weights where the module itself cannot be trained."""
        shape = self.preprocess.shape
        return trainable(self.model, lambda: written_graph(self.model.eval(), shape), shape)

    @property
    def model_notes(self) -> tuple[str, ...]:
        """What was changed of the given model, a sentence each."""
        folded = self._plain.notes  # first, as this makes the model
        return (*self._formats, *folded)

    @property
    def given_model(self) -> nn.Module:
        """The user's own module with its weights, in float32 and evaluation mode, computing as it was written: the
        reference of `pipeline.stages.given`. A copy, made anew each time, which nothing trains; `given_carrying` alone
        gives it other weights."""
        given = self._plain.given
        return (copied(given) if given is self.model else given).eval()

    def given_carrying(self, weights: Path) -> nn.Module:
        """The user's own module with the float stage's weights, or a copy of the model that has them, where the
        module's own parameters have other names."""
        given = self.given_model
        if given.state_dict().keys() == self.model.state_dict().keys():
            load_module(weights, given, self.float_info)
            return given
        if self.start.trained:
            return given
        load_module(weights, self.model, self.float_info)
        return copied(self.model).eval()

    @cached_property
    def shapes(self) -> TracedModel:
        """The traced model, whatever its weights."""
        return trace(self.model, self.preprocess.shape)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the logits, numbers where the data have no names for them; of maps and boxes those of the data. A vector
        whose numbers are no classes has none."""
        shapes, names = self.output_shapes, self.dataset.classes
        if len(shapes) != 1 or len(shapes[0]) != 2:
            return names
        if not (self.task.one_label or isinstance(self.task, Classification)):
            return ()
        return names if len(names) == shapes[0][1] else tuple(map(str, range(shapes[0][1])))

    @property
    def num_classes(self) -> int:
        """The outputs of the model, as its traced graph gives them."""
        return self.shapes.outputs

    @cached_property
    def placement(self) -> Placement:
        return place(
            self.shapes,
            self.target,
            model=self.config.model,
            pinned_bits=self.config.pinned_bits,
            act_bits=self.config.act_width,
        )

    def traced(self, weights: Path) -> TracedModel:
        """The traced float model with the float stage's weights, its channels equalised where that is needed."""
        load_module(weights, self.model, self.float_info)
        return equalise_channels(trace(self.model.eval(), self.preprocess.shape))

    @property
    def raw(self) -> TracedModel:
        """The traced model in evaluation mode, whose tensors are the model's own, whatever these are now."""
        self.shapes.graph_module.eval()
        return self.shapes

    def untrained(self) -> tuple[TracedModel, TracedModel]:
        """`raw`, and a copy of it with its channels equalised."""
        return self.raw, equalise_channels(copy.deepcopy(self.raw))

    @property
    def float_info(self) -> CheckpointInfo:
        return CheckpointInfo(kind="float", model=self.config.model)

    def model_digest(self) -> dict[str, str | None]:
        """What the float model depends on, besides data and seed: name, weights (which of the file), and the source and
        structure of a user's own."""
        weights = published_file(self.config.model) if self.config.pretrained else self.config.weights
        return {
            "model": self.config.model,
            "weights": sha256_of(weights) if weights is not None else None,
            "weights_key": self.config.weights_key,
            "source": _source_digest(self.config.model) if known_info(self.config.model) is None else None,
            "structure": None if self.config.model in MODELS else _structure_digest(self.shapes),
        }

    def data_digest(self) -> str:
        """What the data are and what is asked of them, with the sources of a user's own: how it reads and augments is
        not in the fingerprint."""
        digest = self._own_data_digest()
        if self.config.task == DEFAULT_TASK:
            return digest
        factory = factory_of(self.config.task)
        source = user_sources(load_factory(factory, LimpqError)) if factory is not None else ""
        return hashlib.sha256(f"{digest} {self.config.task} {source}".encode()).hexdigest()

    def _own_data_digest(self) -> str:
        digest = self.dataset.digest()
        if not is_factory_name(self.config.data) or self.config.data.partition(":")[0] in KINDS:
            return digest
        source = user_sources(load_factory(self.config.data, LimpqError))
        return hashlib.sha256(f"{digest} {source}".encode()).hexdigest()

    def quantized(self, traced: TracedModel, policy: dict[str, BitPair]) -> QuantizedModel:
        """A quantized model at these bits, with first scales from 256 training images."""
        model = model_of_policy(traced, self.placement, policy, scales=self.config.scales)
        model.initialise_scales(self.first_images())
        model.set_bits(policy)
        return model

    def first_images(self, count: int = 256) -> torch.Tensor:
        """Training images in a fixed random order, without augmentation."""
        images, _ = next(iter(self.dataset.split("train").batches(count, shuffle=self.config.seed)))
        return torch.from_numpy(images)


def _structure_digest(traced: TracedModel) -> str:
    """What the factory's own file may not show, such as a change in a module that it imports."""
    called = sorted({str(node.target) for node in traced.graph_module.graph.nodes if node.op == "call_module"})
    modules = [f"{name}: {traced.graph_module.get_submodule(name)!r}" for name in called]
    return hashlib.sha256("\n".join([traced.graph_module.code, *modules]).encode()).hexdigest()


def _source_digest(name: str) -> str:
    return user_sources(load_factory(name, LimpqError))
