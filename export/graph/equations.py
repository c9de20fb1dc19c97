"""Equations of Einsum in letters that every runtime reads: TensorRT refuses capital ones."""

from string import ascii_lowercase

import onnx

from limpq_deploy.export.graph.onnx_files import attribute


def write_equations(model: onnx.ModelProto) -> None:
    """Rewrite, in place, every Einsum's equation without blanks, its axes named a, b, c.

    One with more axes than there are small letters stays as it is.
    """
    for node in model.graph.node:
        if node.op_type != "Einsum":
            continue
        equation = attribute(node, "equation")
        axes = list(dict.fromkeys(sign for sign in equation if sign.isalpha()))
        if "->" not in equation:  # its output has the axes in the order of their letters
            axes.sort()
        if len(axes) > len(ascii_lowercase):
            continue
        plain = str.maketrans(dict(zip(axes, ascii_lowercase, strict=False)) | {" ": ""})
        [one] = [one for one in node.attribute if one.name == "equation"]
        one.s = equation.translate(plain).encode()
