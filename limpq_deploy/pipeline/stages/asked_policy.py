"""What a build's settings ask of its policy: restrictions, budgets, or a policy that is given."""

from collections.abc import Iterable

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import in_float
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.policy.budgets import budgets_from_options, require_within_reach
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.given_policy import load_given
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.restrictions import restrict
from limpq_deploy.policy.spaces import FORMATS_SPACE


def under_restrictions(subject: Subject, indicators: Indicators) -> Indicators:
    """Indicators under the configuration's restrictions. Raises SettingError for a width that is not trained, and
    for a pair that leaves a layer in float otherwise than the target does."""
    config = subject.config
    alone = subject.placement.weights_only
    space = f"w*a{config.act_width}" if alone else config.space
    if config.formats:
        space = f"{FORMATS_SPACE}{','.join(config.formats)}"
    restricted = restrict(indicators, space=space, min_bits=config.min_bits, pin=config.pin, tie=config.tie)
    floats = subject.target.float_widths
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
        _require_native(subject, ((name, pair) for name, some in pairs.items() for pair in some), "--pin or --space")
    return restricted


def budgets_asked(subject: Subject, indicators: Indicators) -> tuple[Budget, ...]:
    """The configuration's budgets, but for a latency limit that is met by measuring."""
    config = subject.config
    if config.goes_round and not config.limited:
        return ()
    if config.policy is None and config.like is not None:
        require_within_reach(indicators, config.like)
    return budgets_from_options(indicators, **config.asked_budgets)


def policy_given(subject: Subject, restricted: Indicators) -> Policy:
    """The policy of ``--policy``; raises what `load_given` raises."""
    assert subject.config.policy is not None
    budgets = budgets_asked(subject, restricted) if subject.config.limited else ()
    given = load_given(subject.config.policy, restricted, budgets, floats=subject.target.float_widths)
    if not subject.placement.weights_only:
        _require_native(subject, given.pairs().items(), str(subject.config.policy))
    return given


def _require_native(subject: Subject, pairs: Iterable[tuple[str, BitPair]], origin: str) -> None:
    """Layers are kept in float, wholly or in part, as the target executes it."""
    target = subject.target
    for name, (weight, act) in pairs:
        linear = subject.placement.layer(name).kind == "linear"
        if not target.holds(weight, act, linear=linear):
            native = [*target.native_pairs, *(target.linear_pairs if linear else ())]
            shown = " or ".join(pair_name((w, a)) for w, a in native if in_float(max(w, a)))
            raise SettingError(
                f"{origin} gives layer {name!r} {pair_name((weight, act))}; {target.name} leaves "
                f"{'layers in float as ' + shown if shown else 'no layer in float'}: take that, or bits of 2 to 8"
            )
