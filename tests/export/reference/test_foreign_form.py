"""Files of other tools in the form that the reference reads."""

from onnx import helper, numpy_helper

from limpq_deploy.export.reference.foreign_form import as_pairs, with_names

from .foreign_nets import U8, Graph


def test_every_node_gets_a_name_of_its_own_that_no_pass_could_have_given() -> None:
    net = Graph([1, 4])
    net.node("Relu", net.node("Relu", net.node("Relu", net.node("Relu", "x"))))
    for node, name in zip(net.nodes, ("", "same", "same", "kept_nchwc_token_3"), strict=True):
        node.name = name
    named = with_names(net.model("Relu3_0"))
    assert [node.name for node in named.graph.node] == ["Relu#0", "same", "same#2", "kept"]
    assert [node.name for node in net.nodes] == ["", "same", "same", "kept_nchwc_token_3"]


def test_an_integer_operator_becomes_its_float_operator_between_pairs_with_its_names() -> None:
    net = Graph([1, 4, 8, 8])
    grid = [net.constant(0.5, "float32"), net.constant(3, U8)]
    weight = [net.constant(net.codes((2, 4, 1, 1))), net.constant([0.25, 0.5], "float32"), net.constant([0, 0], "int8")]
    codes = net.node("QuantizeLinear", "x", *grid)
    result = net.node("QLinearConv", codes, *grid, *weight, *grid, net.constant([1, 2], "int32"), strides=[2, 2])
    graph = as_pairs(net.model(result, kind=2)).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds == ["QuantizeLinear", *["DequantizeLinear"] * 3, "Conv", "QuantizeLinear"]
    conv, quantizer = graph.node[-2:]
    assert (conv.name, quantizer.output[0]) == (net.nodes[-1].name, result)
    assert helper.get_node_attr_value(conv, "strides") == [2, 2]
    fixed = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer}
    assert fixed[graph.node[3].input[1]] == [0.125, 0.25]  # input scale times weight scales


def test_a_product_without_a_grid_of_its_own_stays_real() -> None:
    net = Graph([1, 4])
    grid = [net.constant(0.5, "float32"), net.constant(3, U8)]
    codes = net.node("QuantizeLinear", "x", *grid)
    weight = [net.constant(net.codes((2, 4))), net.constant(0.25, "float32"), net.constant(0, "int8")]
    result = net.node("QGemm", codes, *grid, *weight, domain="com.microsoft", transB=1)
    graph = as_pairs(net.model(result, rank=2)).graph
    assert graph.node[-1].op_type == "Gemm"
    assert graph.node[-1].output[0] == result
