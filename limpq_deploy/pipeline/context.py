"""What a build is about: the model, its data, its placement. Opened and checked before any work is done."""

import copy
import hashlib
from collections.abc import Iterable
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
from limpq_deploy.calibration.errors import LimpqError, MissingExtra, RuntimeUnavailable, SettingError
from limpq_deploy.calibration.factories import is_factory_name, load_factory
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.in_memory import in_memory
from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import FileForm, TargetSpec, in_float
from limpq_deploy.export.records.tensorrt_versions import form_for
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import BuildsElsewhere, Runtime
from limpq_deploy.export.runtimes.onnxruntime.as_written import AsWritten
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import split
from limpq_deploy.model.activation_memory import with_memory
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.edges import with_edges
from limpq_deploy.model.given_model import PlainModel, copied, in_float32, plain
from limpq_deploy.model.layers import TracedModel, trace, written_graph
from limpq_deploy.model.place import place
from limpq_deploy.model.zoo import MODELS, ModelInfo, create_model, known_info
from limpq_deploy.model.zoo.published import published_file
from limpq_deploy.optional_packages import require_modules
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.deployed import Start
from limpq_deploy.pipeline.start import take_weights
from limpq_deploy.policy.budgets import COST_FILES, budgets_from_options
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.given_policy import load_given
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer, weights_only
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.restrictions import restrict
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.spaces import FORMATS_SPACE
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy
from limpq_deploy.tasks.agreement import by_float
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.names import DEFAULT_TASK, factory_of
from limpq_deploy.tasks.open_task import open_task
from limpq_deploy.train.checkpoints import CheckpointInfo, load_module
from limpq_deploy.train.device import require_precision
from limpq_deploy.train.float_training import trainable
from limpq_deploy.train.judge import Judge
from limpq_deploy.train.settings import finetune_settings, float_settings, joint_settings
from limpq_deploy.train.training_log import require_tensorboard
from limpq_deploy.workspace.finished import checked
from limpq_deploy.workspace.sources import user_sources

HELD_OUT_IMAGES = 2000
"""At most so many of the held-out training images are looked at."""


class Subject:
    """Model, data, target and placement of one configuration; each is made once, when it is first asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._formats: tuple[str, ...] = ()

    def check(self, *, engine: bool) -> None:
        """Find now what would stop the build later: packages, runtime (``engine``), data, classes, weights, layers,
        budgets.

        Raises the error that the stage would raise.
        """
        require_modules(("safetensors",), "training")
        for given in (self.config.weights, self.config.policy, *(getattr(self.config, name) for name in COST_FILES)):
            if given is not None:
                checked(given)
        if self.target.exportable:
            require_modules(("onnxscript",), "exporting")
        if engine and self.compiles_only:
            self.compiler()
        elif engine and self.builds_engine:
            self.runtime()
        self.require_data_of_task()
        self._check_training()
        self._check_floats()
        untrained = _placeholder_indicators(self.placement, self.config.candidates)
        if self.config.act_bits is not None and not self.placement.weights_only:
            untrained = weights_only(untrained, self.config.act_bits)
        indicators = self.restricted(with_edges(with_memory(untrained, self._shapes, self.placement), self._shapes))
        if self.config.policy is not None:
            self.given_policy(indicators)
        else:
            budgets = self.budgets(indicators)
            if budgets:  # none yet where latency alone decides, which is not profiled yet
                search_policy(indicators, budgets, solver=self.config.solver)

    def _check_floats(self) -> None:
        """Refuse a network of which too much runs in float."""
        limit, found = self.config.max_float_share, self.placement
        if limit is not None and found.float_share > limit:
            raise SettingError(
                f"{100 * found.float_share:.1f} % of the network's multiply-accumulates run in float on "
                f"{self.target.name} ({found.floats_in_words}), and max_float_share allows {100 * limit:g} %; raise "
                "it, or replace those operators (limpq-deploy inspect names their lines)"
            )

    def _check_training(self) -> None:
        """Refuse settings that make no sense together, a precision that is missing here, and a batch that would
        silently be smaller than asked for."""
        training, images = self.config.training, len(self.dataset.split("train"))
        self._check_labels()
        for settings in (float_settings, joint_settings, finetune_settings):
            require_precision(settings(images, training).precision)
        if training.tensorboard:
            require_tensorboard()
        if training.batch_size is not None and training.batch_size > images:
            raise SettingError(
                f"training.batch_size is {training.batch_size}, and {self.dataset.name!r} has {images} training images "
                "only; choose a smaller batch"
            )

    def _check_labels(self) -> None:
        """Refuse trainings that need labels where there are none."""
        labelled = self.dataset.split("train").labelled and self.task.labels_teach
        training = self.config.training
        if labelled:
            return
        why = f"the task {self.task.name}" if self.dataset.split("train").labelled else "these images without labels"
        if not self.start.trained:
            raise SettingError(
                f"a float model cannot be trained here by {why}; give --weights of a trained network, or --pretrained"
            )
        if training.inplace_distill or training.distill not in (None, 1.0):
            raise SettingError(
                f"training.distill below 1 and inplace_distill learn from labels, and {why} teaches nothing by them; "
                "leave both away"
            )

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
        end = next(reversed(self._shapes.graph_module.graph.nodes))
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
    def _shapes(self) -> TracedModel:
        """The traced model, whatever its weights."""
        return trace(self.model, self.preprocess.shape)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the data; where those have none, the numbers of the logits, and nothing for other outputs."""
        shapes = self.output_shapes
        numbered = len(shapes) == 1 and len(shapes[0]) == 2
        return self.dataset.classes or tuple(map(str, range(shapes[0][1] if numbered else 0)))

    @property
    def num_classes(self) -> int:
        """The outputs of the model, as its traced graph gives them."""
        return self._shapes.outputs

    @cached_property
    def placement(self) -> Placement:
        return place(
            self._shapes,
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
        self._shapes.graph_module.eval()
        return self._shapes

    def untrained(self) -> tuple[TracedModel, TracedModel]:
        """`raw`, and a copy of it with its channels equalised."""
        return self.raw, equalise_channels(copy.deepcopy(self.raw))

    @property
    def float_info(self) -> CheckpointInfo:
        return CheckpointInfo(kind="float", model=self.config.model)

    def restricted(self, indicators: Indicators) -> Indicators:
        """Indicators under the configuration's restrictions. Raises SettingError for a width that is not trained, and
        for a pair that leaves a layer in float otherwise than the target does."""
        config = self.config
        alone = self.placement.weights_only
        space = f"w*a{config.act_width}" if alone else config.space
        if config.formats:
            space = f"{FORMATS_SPACE}{','.join(config.formats)}"
        restricted = restrict(indicators, space=space, min_bits=config.min_bits, pin=config.pin, tie=config.tie)
        floats = self.target.float_widths
        untrained = sorted(set(restricted.bits) - set(indicators.bits) - floats)
        if untrained:
            remedy = "ask `search` on an indicators file" if untrained[0] > 8 else f"add {untrained[0]} to --bits"
            left = f" (or kept in float, {' or '.join(map(str, sorted(floats)))})" if floats else ""
            raise SettingError(
                f"--pin or --space asks for {untrained[0]} bits, and a build can only take what it trains, candidates "
                f"of 2 to 8 bits{left}; {remedy}"
            )
        if set(restricted.bits) & floats and not alone:
            pairs = {layer.name: layer.pairs or () for layer in restricted.layers}
            self._require_native(((name, pair) for name, some in pairs.items() for pair in some), "--pin or --space")
        return restricted

    def _require_native(self, pairs: Iterable[tuple[str, BitPair]], origin: str) -> None:
        """Layers are kept in float, wholly or in part, as the target executes it."""
        target = self.target
        for name, (weight, act) in pairs:
            linear = self.placement.layer(name).kind == "linear"
            if not target.holds(weight, act, linear=linear):
                native = [*target.native_pairs, *(target.linear_pairs if linear else ())]
                shown = " or ".join(pair_name((w, a)) for w, a in native if in_float(max(w, a)))
                raise SettingError(
                    f"{origin} gives layer {name!r} {pair_name((weight, act))}; {target.name} leaves "
                    f"{'layers in float as ' + shown if shown else 'no layer in float'}: take that, or bits of 2 to 8"
                )

    def budgets(self, indicators: Indicators) -> tuple[Budget, ...]:
        """The configuration's budgets, but for a latency limit that is met by measuring."""
        config = self.config
        if config.goes_round and not config.limited:
            return ()
        return budgets_from_options(indicators, **config.asked_budgets)

    def given_policy(self, restricted: Indicators) -> Policy:
        """The policy of ``--policy``; raises what `load_given` raises."""
        assert self.config.policy is not None
        budgets = self.budgets(restricted) if self.config.limited else ()
        given = load_given(self.config.policy, restricted, budgets, floats=self.target.float_widths)
        if not self.placement.weights_only:
            self._require_native(given.pairs().items(), str(self.config.policy))
        return given

    def model_digest(self) -> dict[str, str | None]:
        """What the float model depends on, besides data and seed: name, weights (which of the file), and the source and
        structure of a user's own."""
        weights = published_file(self.config.model) if self.config.pretrained else self.config.weights
        return {
            "model": self.config.model,
            "weights": sha256_of(weights) if weights is not None else None,
            "weights_key": self.config.weights_key,
            "source": _source_digest(self.config.model) if known_info(self.config.model) is None else None,
            "structure": None if self.config.model in MODELS else _structure_digest(self._shapes),
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


def _placeholder_indicators(placement: Placement, bits: tuple[int, ...]) -> Indicators:
    """Indicators that say nothing yet, to check budgets before hours of training."""
    values = tuple(2.0**-width for width in bits)
    return Indicators(
        model=placement.model,
        bits=bits,
        layers=tuple(
            LayerIndicators(
                name=layer.name,
                macs=layer.macs,
                num_weights=layer.num_weights,
                weight=values,
                act=values,
                act_group=placement.act_group(layer),
                kind=layer.kind,
            )
            for layer in placement.searched
        ),
        pinned=tuple(
            PinnedLayer(
                name=layer.name,
                macs=layer.macs,
                num_weights=layer.num_weights,
                weight_bits=layer.pinned_bits or 0,
                act_bits=placement.quantizer(layer.input).bits or 0,
            )
            for layer in placement.pinned
        ),
    )


def _structure_digest(traced: TracedModel) -> str:
    """What the factory's own file may not show, such as a change in a module that it imports."""
    called = sorted({str(node.target) for node in traced.graph_module.graph.nodes if node.op == "call_module"})
    modules = [f"{name}: {traced.graph_module.get_submodule(name)!r}" for name in called]
    return hashlib.sha256("\n".join([traced.graph_module.code, *modules]).encode()).hexdigest()


def _source_digest(name: str) -> str:
    return user_sources(load_factory(name, LimpqError))
