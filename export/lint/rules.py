"""The rules of both targets: what a file has to be, how grave a breach is, what to do, and how we know.

`docs/lint.md` shows this table. A rule of TensorRT without a version holds for all; "built" says that NVIDIA's own
parser and builder (TensorRT-for-RTX 1.7.1, of the family of TensorRT 11) were given files that keep and that break it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from limpq_deploy.export.lint.finding import Finding, Severity


@dataclass(frozen=True, slots=True)
class Rule:
    """``says``: what is so in a file that keeps it."""

    severity: Severity
    says: str
    remedy: str
    source: str


BUILT = "built"
SOURCE_OF_PARSER = "the parser's source, 8.5 to 10.15 (github.com/onnx/onnx-tensorrt)"
PLACEMENT = "NVIDIA, Working with Quantized Types: Q/DQ placement recommendations (read, not timed)"
OPTIMISED = "the graph that ONNX Runtime 1.32 makes of such files"

RULES: Mapping[str, Rule] = {
    # both targets
    "not-quantized": Rule("float", "a layer is quantized", "quantize the model for this target", BUILT),
    "input-float": Rule("float", "a layer reads codes", "put a quantizer directly before this layer", BUILT),
    "weight-form": Rule(
        "float", "a weight is made by DequantizeLinear from a constant of 8 bits",
        "write int8 codes with a DequantizeLinear", BUILT,
    ),
    "activation-scale": Rule(
        "float", "an activation has one scale, a number without dimensions",
        "calibrate this tensor with one scale; only weights have one for each channel", BUILT,
    ),
    "deconvolution": Rule(
        "float", "a transposed convolution stays out of the integers",
        "leave it in float as planned, or replace it by Resize and a convolution", BUILT,
    ),
    "types-agree": Rule(
        "refused", "all inputs of a layer, sum or concatenation have one float type",
        "give all DequantizeLinear round it scales of one type, or write a Cast", BUILT,
    ),
    "zero-point-count": Rule(
        "refused", "a zero-point has as many numbers as its scale", "write one zero-point for each scale", BUILT,
    ),
    "scale-length": Rule(
        "refused", "scales along an axis are as many as the channels there",
        "write one scale for each channel in one dimension", BUILT,
    ),
    "scale-finite": Rule(
        "differs", "a scale and its reciprocal are finite in float32",
        "calibrate or train this quantizer again", BUILT,
    ),
    "batchnorm": Rule(
        "slower", "BatchNorm is folded into the layer before it",
        "fold it before quantizing: export the model in evaluation mode, or fuse it first", PLACEMENT,
    ),
    # TensorRT
    "opset": Rule(
        "refused", "the operator set is one that the parser reads", "export at an older opset",
        "NVIDIA's release notes; 11 was built with opsets 10 to 26",
    ),
    "operator": Rule(
        "refused", "operators are those that the parser reads",
        "replace this operation; codes are written as QuantizeLinear and DequantizeLinear round float operators",
        f"{BUILT}; docs/operators.md of the parser",
    ),
    "constant-type": Rule(
        "refused", "constants have types that the parser reads",
        "write int8 codes; narrower and wider integers are for storage or other runtimes", BUILT,
    ),
    "cast-type": Rule("refused", "no inner tensor has a type that TensorRT lacks", "cast to int32 instead", BUILT),
    "zero-point": Rule(
        "refused", "zero-points are 0", "quantize symmetrically: int8 codes round 0", BUILT,
    ),
    "zero-point-constant": Rule(
        "refused", "a zero-point is an initializer", "write the zero-point as an initializer", BUILT,
    ),
    "codes-type": Rule(
        "refused", "DequantizeLinear reads int8, or FP8 or int4 where the version knows them",
        "write int8 codes; a bias stays a float constant", BUILT,
    ),
    "scale-positive": Rule("refused", "scales are positive", "calibrate or train this quantizer again", BUILT),
    "scale-constant": Rule(
        "refused", "a scale is known when the engine is built", "calibrate: write the scale as a constant", BUILT,
    ),
    "uint8-codes": Rule(
        "differs", "codes are int8",
        "write int8 codes with an explicit zero-point 0: export for the target tensorrt",
        f"{BUILT}, with a warning: int8 is taken in its place",
    ),
    "codes-constant": Rule(
        "refused", "constants of codes are read by DequantizeLinear alone",
        "dequantize the constant first, or give it as an attribute", BUILT,
    ),
    "codes-read": Rule(
        "refused", "codes are read by DequantizeLinear only",
        "work on floats: a Clip stands before QuantizeLinear, anything else behind DequantizeLinear",
        "NVIDIA's documents for 8.6 and 10; 11 takes movers and clips on codes (built)",
    ),
    "convolution-codes": Rule(
        "refused", "the codes of a convolution's input and weight have one type, of 8 bits",
        "write int8 for both, or FP8 for both", f"{BUILT}: the builder refuses other pairs",
    ),
    "pool-dilation": Rule("refused", "a pool has no dilation", "replace this pool in the model", BUILT),
    "pad-adds": Rule("refused", "a Pad adds", "cut with a slice instead", f"{SOURCE_OF_PARSER}; 11 reads it (built)"),
    "pad-axes": Rule(
        "refused", "a Pad has amounts for all axes", "write amounts for all axes, zeros for the others",
        f"{SOURCE_OF_PARSER}, before 10.4",
    ),
    "kernel-shape": Rule(
        "refused", "a convolution whose weight is computed says its kernel_shape",
        "write the attribute kernel_shape, the last two sizes of the weight", f"{SOURCE_OF_PARSER}, before 10.4",
    ),
    "weight-for-8.6": Rule(
        "refused", "a weight for 8.6 is an FP32 constant with QuantizeLinear and DequantizeLinear",
        "export for the target tensorrt, --tensorrt 8.6", "8.6 does not read int8 constants reliably (its documents)",
    ),
    "weight-axis": Rule(
        "float", "the scales of a weight stand along its output channels",
        "write one scale for each output channel, along that axis", BUILT,
    ),
    "fp8": Rule(
        "float", "a layer runs in integers",
        "quantize to int8 where integers are wanted", f"{BUILT}: FP8 kernels from compute capability 8.9 on",
    ),
    "add-bare": Rule(
        "slower", "an Add is quantized on its identity input",
        "put a quantizer on the input that does not come straight from a layer", PLACEMENT,
    ),
    "add-both": Rule(
        "slower", "no quantizer stands between a layer and the Add that takes it in",
        "take the quantizer off the layer's own result", PLACEMENT,
    ),
    "pad-between": Rule(
        "slower", "no Q/DQ stands between Pad and Conv", "put the quantizer before the Pad: zeros stay zeros",
        PLACEMENT,
    ),
    "weights-at-every-call": Rule(
        "slower", "a layer that reads floats has weights that its kernel takes as they are",
        "quantize what it reads too (no --act-bits float), or leave its weights in float",
        f"{BUILT}: Gemms take int8 for each channel and int4 in two or more blocks, convolutions neither",
    ),
    "concat-scales": Rule(
        "slower", "the quantized inputs of a Concat share one scale",
        "quantize all parts with the largest scale, or quantize behind the Concat",
        f"{BUILT}: a kernel rescales each part",
    ),
    # ONNX Runtime
    "runtime-refuses": Rule(
        "refused", "ONNX Runtime loads and runs the file", "export the model again, or quantize it for this target",
        "the installed ONNX Runtime was given the file",
    ),
    "compiler-refuses": Rule(
        "refused", "NVIDIA's compiler builds an engine of the file", "export the model again for this target",
        "the installed TensorRT-RTX was given the file; another version of TensorRT may differ",
    ),
    "compiled-to-float": Rule(
        "float", "layers between dequantized inputs run in integers",
        "quantize both inputs of this node in the target's form",
        "the list of layers of the installed TensorRT-RTX's engine; another version of TensorRT may differ",
    ),
    "runs-in-float": Rule(
        "float", "convolutions, adds and matrix products run in integers",
        "quantize every input and the output of this node, once each, in the target's form",
        "the installed ONNX Runtime's optimised graph",
    ),
    "signed-codes": Rule(
        "float", "activation codes are uint8",
        "write uint8 codes: zero-point 0 after a ReLU, 128 where values are negative",
        f"{OPTIMISED}: of int8 codes it fuses fewer layers",
    ),
    "numbers-differ": Rule(
        "differs", "the optimised graph computes what the file says",
        "compare with session optimisations off; write the file in this target's form",
        "the installed ONNX Runtime ran the file with and without its optimisations",
    ),
    "input-types": Rule(
        "refused", "a QuantizeLinear's input and scale have one float type", "write the scale in the input's type",
        "ONNX; ONNX Runtime 1.32 refuses others",
    ),
    "codes-16-bit": Rule(
        "float", "activation codes have 8 bits",
        "write uint8 codes: zero-point 0 after a ReLU, 128 where values are negative", OPTIMISED,
    ),
    "relu-zero-point": Rule(
        "float", "the quantizer behind a ReLU has its zero-point at the lowest code",
        "quantize a ReLU's result with zero-point 0 of uint8", OPTIMISED,
    ),
    "clip-float": Rule(
        "float", "a grid is cut on its codes", "put the Clip behind QuantizeLinear, on the codes", OPTIMISED,
    ),
    "result-float": Rule(
        "float", "a layer's result is read by one QuantizeLinear alone",
        "put one quantizer behind this layer (behind its ReLU where it has one); re-quantize from its DequantizeLinear",
        OPTIMISED,
    ),
    "bias-scale": Rule(
        "float", "a bias of codes has the scale input scale * weight scale and no zero-point",
        "round the bias to input scale * weight scale", OPTIMISED,
    ),
    "add-float": Rule("float", "both inputs of an Add are quantized", "put a quantizer on that input", OPTIMISED),
    "weight-axis-0": Rule(
        "differs", "the scales of a convolution's weight stand along axis 0",
        "write one scale for each output channel, along axis 0",
        f"{OPTIMISED}: its kernel reads them along axis 0 wherever they stand",
    ),
    "weight-rounded": Rule(
        "differs", "a float weight does not stand between one scale and a QuantizeLinear",
        "write the scale of its DequantizeLinear once for each channel, or quantize the weight",
        f"{OPTIMISED}: it quantizes such a weight to 8 bits by itself",
    ),
    "pool-float": Rule(
        "slower", "a pool that averages is quantized on both sides", "put quantizers on its input and on its result",
        OPTIMISED,
    ),
    "join-float": Rule(
        "slower", "all inputs of a Mul or Concat are quantized, or none", "put a quantizer on that input", OPTIMISED,
    ),
}  # fmt: skip


def finding(rule: str, node: str, consequence: str) -> Finding:
    """A breach of one of `RULES`."""
    known = RULES[rule]
    return Finding(rule=rule, severity=known.severity, node=node, consequence=consequence, remedy=known.remedy)
