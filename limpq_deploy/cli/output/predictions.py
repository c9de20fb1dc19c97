"""How far a compiler's prices may be trusted, as text. No onnx here: a search prints it."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.predictions import built_of, predicted

MIB = 2**20


def error_lines(priced: CostTable) -> list[str]:
    """How far off the table was, where engines were built that it did not know: of mixes, and near policies."""
    lines = []
    if priced.checks:
        errors = [abs(one.error) for one in priced.checks]
        lines.append(
            f"{len(errors)} engines that mix precisions, each predicted by a table made without it: off by "
            f"{_errors(errors)}"
        )
    own = [abs(one.error) for one in priced.near]
    if own:
        now = [abs(predicted(priced, one.pairs).bytes / max(one.built.bytes, 1) - 1) for one in priced.near]
        lines.append(
            f"{len(own)} engines of policies given with --near and of some around them, predicted by a table made "
            f"without them: off by {_errors(own)}; by this table, which knows them: {_errors(now)}"
        )
    return lines


def said_of_policy(priced: CostTable, policy: Mapping[str, BitPair]) -> str:
    """What a table says of a policy, and how far that may be trusted."""
    known = built_of(priced, policy)
    if known is not None:
        said, moved = "an engine of this policy was built", known.built
    else:
        said, moved = "predicted, no engine of this policy was built", predicted(priced, policy)
    lines = [f"{moved.bytes / MIB:.3f} MiB moved, {moved.kernels:.0f} kernels for batch {priced.batch}: {said}"]
    if known is None:
        lines += error_lines(priced) or ["no engine checked the table"]
        lines.append(
            "to build this one and mend the table: limpq-deploy profile DIR --runtime tensorrt_rtx --near FILE"
        )
    return "\n".join(lines)


def _errors(sizes: Sequence[float]) -> str:
    return f"{100 * fmean(sizes):.1f} % on average, {100 * max(sizes):.1f} % at most"
