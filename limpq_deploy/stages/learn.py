"""Stages that train: float model, indicators, policy, fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from limpq_deploy.calibration.datasets import require_classes
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.records import load_record, to_dict, write_record
from limpq_deploy.checkpoints import CheckpointInfo, load_module, save_module
from limpq_deploy.convergence import at_snapshot, convergence_sentence, snapshots_of, stability
from limpq_deploy.costs import Budget, parse_like, uniform_policy_within
from limpq_deploy.export.placement import BitPair
from limpq_deploy.finetune import finetune
from limpq_deploy.finetuned import Top1
from limpq_deploy.float_training import train_float
from limpq_deploy.indicators import Indicators
from limpq_deploy.joint import train_indicators
from limpq_deploy.layers import TracedModel
from limpq_deploy.pipeline import Stage
from limpq_deploy.policy import Policy
from limpq_deploy.progress import Report
from limpq_deploy.quantized import QuantizedModel, inherit, joint_model, model_of_policy
from limpq_deploy.recipe import finetune_recipe, float_recipe, joint_recipe
from limpq_deploy.search import search_policy
from limpq_deploy.stages.training import checkpoint_of, prepare, training_inputs
from limpq_deploy.subject import Subject
from limpq_deploy.training import top1
from limpq_deploy.training.processes import leads

FLOAT, FLOAT_RECORD = "float.safetensors", "float.json"
JOINT, INDICATORS, PLACEMENT = "joint.safetensors", "indicators.json", "placement.json"
POLICY, COMPARISON = "policy.json", "comparison.json"
FINETUNED, FINETUNED_RECORD = "finetuned.safetensors", "finetuned.json"
UNIFORM, UNIFORM_RECORD = "uniform.safetensors", "uniform.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatModel:
    """The float model of a build: ``source`` is the user's weights file, or says that it was trained here."""

    source: str
    top1: Top1
    format: Literal["limpq.float/1"] = field(default="limpq.float/1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The uniform (weight, activation) bits within the same budgets and restrictions, to set beside the policy.

    ``pair`` None: no uniform policy keeps them. ``same``: the policy is that uniform one. ``unrestricted``: where the
    restrictions alone (lower bounds, pins, the search space) leave none, the pair within the budgets alone.
    """

    pair: BitPair | None
    same: bool
    unrestricted: BitPair | None = None
    format: Literal["limpq.comparison/1"] = field(default="limpq.comparison/1")

    @property
    def bits(self) -> str | None:
        """``w4a4``."""
        return None if self.pair is None else _text(self.pair)

    def sentence(self) -> str:
        """What the policy is set beside, or why nothing."""
        if self.pair is not None:
            return f"beside {_text(self.pair)}"
        if self.unrestricted is not None:
            return f"no uniform policy keeps the restrictions ({_text(self.unrestricted)} keeps the budgets alone)"
        return "no uniform policy fits"


def _text(pair: BitPair) -> str:
    return f"w{pair[0]}a{pair[1]}"


def float_stage(subject: Subject, folder: Path) -> Stage:
    """The user's weights, or a brief training from fresh ones."""
    config = subject.config
    dataset = subject.dataset
    settings = float_recipe(config.training, len(dataset.split("train")))

    inputs = {
        **subject.model_digest(),
        "data": dataset.digest(),
        "training": training_inputs(subject, settings) if config.weights is None else None,
    }

    def run(report: Report) -> str:
        if leads():
            dataset.check()
        require_classes(dataset, subject.info.num_classes)
        resumed = ""
        if config.weights is None:
            execution, resumed = prepare(subject, folder, "float", inputs, ())
            train_float(subject.model, dataset, settings=settings, seed=config.seed, report=report, execution=execution)
        if not leads():
            return ""
        found = Top1(val=top1(subject.model, dataset.split("val")), test=top1(subject.model, dataset.split("test")))
        save_module(folder / FLOAT, subject.model, subject.float_info)
        source = "trained here" if config.weights is None else config.weights.name
        write_record(FloatModel(source=source, top1=found), folder / FLOAT_RECORD)
        unused = [
            name for name in ("float_steps", "float_epochs", "float_lr") if getattr(config.training, name) is not None
        ]
        ignored = f"; {' and '.join(unused)} without effect" if config.weights is not None and unused else ""
        return f"top-1 {found.test:.2f} % on test ({source}{ignored}){resumed}"

    return Stage(
        name="float",
        title="float model",
        inputs=inputs,
        reads=(),
        outputs=(FLOAT, FLOAT_RECORD),
        run=run,
        checkpoint=checkpoint_of("float"),
        together=True,
    )


def indicators_stage(subject: Subject, folder: Path) -> Stage:
    """Joint training of all bit-widths."""
    config = subject.config
    settings = joint_recipe(config.training, len(subject.dataset.split("train")))

    inputs = {
        **subject.model_digest(),
        "data": subject.dataset.digest(),
        "placement": to_dict(subject.placement),
        "bits": config.bits,
        "training": training_inputs(subject, settings),
    }
    reads = (FLOAT,)

    def run(report: Report) -> str:
        execution, resumed = prepare(subject, folder, "indicators", inputs, reads)
        indicators, model = train_indicators(
            subject.traced(folder / FLOAT),
            subject.placement,
            subject.dataset,
            bits=config.bits,
            settings=settings,
            seed=config.seed,
            report=report,
            execution=execution,
        )
        if not leads():
            return ""
        save_module(folder / JOINT, model, _joint_info(subject))
        write_record(subject.placement, folder / PLACEMENT)
        write_record(indicators, folder / INDICATORS)
        source = indicators.source
        moved = f"scales moved {source['median_weight_movement']:.0%} (weights), {source['median_act_movement']:.0%}"
        settled = convergence_sentence(source)
        notes = [note for note in (settled, *(f"warning: {warning}" for warning in source["warnings"])) if note]
        if source["stopped_early"]:
            notes.insert(0, f"stopped after {source['steps']} of {settings.steps} steps")
        noted = "".join(f"; {note}" for note in notes)
        return f"{len(indicators.layers)} layers x {len(config.bits)} bit-widths; {moved} (activations){resumed}{noted}"

    return Stage(
        name="indicators",
        title="indicators",
        inputs=inputs,
        reads=reads,
        outputs=(JOINT, PLACEMENT, INDICATORS),
        run=run,
        checkpoint=checkpoint_of("indicators"),
        together=True,
    )


def search_stage(subject: Subject, folder: Path) -> Stage:
    """The integer program, and the uniform policy to compare with."""
    config = subject.config

    def run(report: Report) -> str:
        indicators = load_record(Indicators, folder / INDICATORS)
        restricted = subject.restricted(indicators)
        budgets = subject.budgets(restricted)
        policy = search_policy(restricted, budgets, alpha=config.alpha, outliers=config.outliers, solver=config.solver)
        like = parse_like(config.budget_like) if config.budget_like is not None else None
        pair = uniform_policy_within(restricted, budgets, like)
        comparison = Comparison(
            pair=pair,
            same=pair is not None and set(policy.pairs().values()) == {pair},
            unrestricted=uniform_policy_within(indicators, budgets, like) if pair is None else None,
        )
        write_record(policy, folder / POLICY)
        write_record(comparison, folder / COMPARISON)
        assert policy.solver is not None
        used = ", ".join(f"{cost.name} {100 * cost.used / cost.limit:.1f} % of the limit" for cost in policy.costs)
        idle = "; the budget limits nothing" if policy.is_everywhere(indicators.bits[-1]) else ""
        settled = _settled(subject, indicators, budgets)
        return (
            f"{policy.solver.status} in {1000 * policy.solver.seconds:.0f} ms; {used}; "
            f"{comparison.sentence()}{idle}{settled}"
        )

    return Stage(
        name="search",
        title="policy",
        inputs={
            "like": config.budget_like,
            "max_gbitops": config.max_gbitops,
            "compression_ratio": config.compression_ratio,
            "max_mib": config.max_mib,
            "max_avg_weight_bits": config.max_avg_weight_bits,
            "max_avg_act_bits": config.max_avg_act_bits,
            "max_act_mib": config.max_act_mib,
            "latency_table": sha256_of(config.latency_table) if config.latency_table is not None else None,
            "max_latency_ms": config.max_latency_ms if config.latency_table is not None else None,
            "space": config.space,
            "min_bits": config.min_bits,
            "pin": config.pin,
            "tie": config.tie,
            "alpha": config.alpha,
            "outliers": config.outliers,
            "solver": config.solver,
        },
        reads=(INDICATORS,),
        outputs=(POLICY, COMPARISON),
        run=run,
    )


def _settled(subject: Subject, indicators: Indicators, budgets: Sequence[Budget]) -> str:
    """Whether the learned scales of earlier steps give a policy of another worth at this build's budgets."""
    config, snapshots = subject.config, snapshots_of(indicators)
    if not snapshots:
        return ""

    def find(scales: Indicators) -> Mapping[str, BitPair]:
        return search_policy(scales, budgets, alpha=config.alpha, outliers="repair", solver="own").pairs()

    earlier = [(one.step, subject.restricted(at_snapshot(indicators, one))) for one in snapshots]
    found = stability(subject.restricted(indicators), earlier, find, alpha=config.alpha)
    warning = "" if found.stands else "; warning: the policy has not settled, train longer (--joint-epochs)"
    return f"; {found.sentence()}{warning}"


def finetune_stage(subject: Subject, folder: Path) -> Stage:
    """The mixed policy, trained."""
    pairs = load_record(Policy, folder / POLICY).pairs()
    return _finetune_stage(subject, folder, pairs, _Names("finetune", "fine-tuning", FINETUNED, FINETUNED_RECORD))


def uniform_stage(subject: Subject, folder: Path) -> Stage | None:
    """The uniform policy within the same budgets, trained by the same recipe: what mixed bits have to beat.

    None where there is no such policy, or where it is the policy itself.
    """
    pairs = compared_pairs(subject, folder)
    if pairs is None:
        return None
    return _finetune_stage(subject, folder, pairs, _Names("uniform", "uniform baseline", UNIFORM, UNIFORM_RECORD))


def compared_pairs(subject: Subject, folder: Path) -> dict[str, BitPair] | None:
    """Bits of the uniform policy that is trained for comparison; None where there is none of its own."""
    comparison = load_record(Comparison, folder / COMPARISON)
    if comparison.pair is None or comparison.same:
        return None
    return {layer.name: comparison.pair for layer in subject.placement.searched}


def load_finetuned(
    subject: Subject, traced: TracedModel, policy: Mapping[str, BitPair], checkpoint: Path
) -> QuantizedModel:
    """A fine-tuned model from its checkpoint, in evaluation mode."""
    model = model_of_policy(traced, subject.placement, policy)
    load_module(checkpoint, model, _finetuned_info(subject, policy))
    return model.eval()


@dataclass(frozen=True, slots=True)
class _Names:
    stage: str
    title: str
    checkpoint: str
    record: str


def _finetune_stage(subject: Subject, folder: Path, pairs: dict[str, BitPair], names: _Names) -> Stage:
    config = subject.config
    settings = finetune_recipe(config.training, len(subject.dataset.split("train")))

    inputs = {
        **subject.model_digest(),
        "pairs": pairs,
        "data": subject.dataset.digest(),
        "bits": config.bits,
        "training": training_inputs(subject, settings),
    }
    reads = (FLOAT, FLOAT_RECORD, JOINT, PLACEMENT)

    def run(report: Report) -> str:
        execution, resumed = prepare(subject, folder, names.stage, inputs, reads)
        traced = subject.traced(folder / FLOAT)
        joint = joint_model(traced, subject.placement, config.bits)
        load_module(folder / JOINT, joint, _joint_info(subject))
        model = model_of_policy(traced, subject.placement, pairs)
        inherit(model, joint)
        found = finetune(
            model,
            pairs,
            subject.dataset,
            settings=settings,
            seed=config.seed,
            float_top1=load_record(FloatModel, folder / FLOAT_RECORD).top1,
            teacher=traced.graph_module,
            foreign_weights=config.weights is not None,
            report=report,
            execution=execution,
        )
        if not leads():
            return ""
        save_module(folder / names.checkpoint, model, _finetuned_info(subject, pairs))
        write_record(found, folder / names.record)
        return f"top-1 {found.top1.test:.2f} % on test ({found.epochs:.1f} epochs){resumed}"

    return Stage(
        name=names.stage,
        title=names.title,
        inputs=inputs,
        reads=reads,
        outputs=(names.checkpoint, names.record),
        run=run,
        checkpoint=checkpoint_of(names.stage),
        together=True,
    )


def _joint_info(subject: Subject) -> CheckpointInfo:
    config = subject.config
    return CheckpointInfo(kind="joint", model=config.model, target=subject.target.name, bits=config.bits)


def _finetuned_info(subject: Subject, pairs: Mapping[str, BitPair]) -> CheckpointInfo:
    bits = {name: list(pair) for name, pair in pairs.items()}
    return CheckpointInfo(kind="finetuned", model=subject.config.model, target=subject.target.name, bits=bits)
