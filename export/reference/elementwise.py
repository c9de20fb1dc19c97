"""Functions of single values, in the float32 arithmetic of ONNX Runtime's kernels.

On codes they are tables of 256 entries: only these values are ever computed.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.reference.operators import Floats, fma

SIGMOID_END = np.float32(18)
"""Beyond it the sigmoid's rational function is not evaluated."""

NUMERATOR = (
    4.37031012579801e-11,
    1.15627324459942e-07,
    6.08574864600143e-05,
    8.51377133304701e-03,
    2.48287947061529e-01,
)
DENOMINATOR = (
    *(6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06),
    *(1.70198817374094e-03, 1.16817656904453e-01, 9.93151921023180e-01),
)
"""Coefficients in x^2, the highest power first, of x * p(x^2) / q(x^2) + 1/2 (MLAS, logistic)."""


def leaky_relu(node: onnx.NodeProto, values: Floats) -> Floats:
    alpha = np.float32(attribute(node, "alpha", 0.01))
    return np.where(values >= 0, values, values * alpha)


def sigmoid(node: onnx.NodeProto, values: Floats) -> Floats:
    return sigmoid_values(values)


def sigmoid_values(values: Floats) -> Floats:
    """1 / (1 + exp(-x)), by the rational function that the runtime evaluates."""
    x = np.clip(values, -SIGMOID_END, SIGMOID_END)
    square = x * x
    ratio = (_polynomial(NUMERATOR, square) * x) / _polynomial(DENOMINATOR, square)
    return np.clip(ratio + np.float32(0.5), np.float32(0), np.float32(1))


def hard_sigmoid(node: onnx.NodeProto, values: Floats) -> Floats:
    return hard_sigmoid_values(values, alpha=attribute(node, "alpha", 0.2), beta=attribute(node, "beta", 0.5))


def hard_sigmoid_values(values: Floats, *, alpha: float, beta: float) -> Floats:
    """min(max(alpha * x + beta, 0), 1)."""
    return np.clip(values * np.float32(alpha) + np.float32(beta), np.float32(0), np.float32(1))


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """Horner's rule with fused multiply-adds."""
    result = np.full_like(x, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        result = fma(result, x, np.full_like(x, np.float32(coefficient)))
    return result


TABLES: Mapping[str, Callable[[onnx.NodeProto, Floats], Floats]] = {
    "LeakyRelu": leaky_relu,
    "Sigmoid": sigmoid,
    "HardSigmoid": hard_sigmoid,
}
