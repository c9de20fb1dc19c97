"""NVIDIA's compiler's own word on a file for TensorRT, beside the rules, which then explain it.

It is the compiler of one version, and seldom the one that builds the engine: it adds findings and drops none.
"""

from collections.abc import Iterable, Iterator

import onnx

from limpq_deploy.export.lint.finding import Finding
from limpq_deploy.export.lint.judged import named_in
from limpq_deploy.export.lint.rules import finding
from limpq_deploy.export.runtimes.tensorrt.inspect import compute_nodes
from limpq_deploy.export.runtimes.tensorrt_rtx.word import CompilerWord


def compiled_findings(word: CompilerWord, static: Iterable[Finding], model: onnx.ModelProto) -> Iterator[Finding]:
    """What the compiler finds and no rule has found."""
    known = tuple(static)
    if word.accepted is False:
        if not any(one.severity == "refused" for one in known):
            yield finding("compiler-refuses", named_in(word.detail, model), word.detail)
        return
    nodes, in_float = compute_nodes(model), {one.node for one in known if one.severity == "float"}
    for layer in word.as_floats:
        if nodes[layer] not in in_float:
            yield finding("compiled-to-float", nodes[layer], f"it runs in floats in the engine of {word.compiler}")
