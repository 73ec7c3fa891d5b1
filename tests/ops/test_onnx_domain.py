# SPDX-License-Identifier: Apache-2.0
"""Nodes of our own ONNX domain, and the functions that serve runtimes without them."""

import re

import pytest
import torch

from carafe_plugin import onnx_domain
from carafe_plugin.upsamplers import FreqFusion
from tests.ops.test_export import EXPORTER_NOISE, Operator, assert_onnx_equal, carafe_module, operator_inputs
from tests.tolerances import LAYERS, OPERATOR
from tests.torch_versions import DYNAMIC, needs_export, needs_onnx_nodes

onnx = pytest.importorskip('onnx', reason='needs the onnx extra')
pytest.importorskip('onnxscript', reason='needs the onnx extra')

pytestmark = [EXPORTER_NOISE, needs_export]
NAMES = dict(
    carafe='reassemble',
    carafe_softmax='reassemble_softmax',
    carafe_downsample='reassemble',
    carafe_downsample_softmax='reassemble_softmax',
    correlate='correlate',
)


def to_onnx(model, inputs, path, dynamo=False, **options):
    """Export with dynamic sizes and add the functions; the file must pass onnx's own checks."""
    names = [f'input{i}' for i in range(len(inputs))]
    free = {0: 'n', 2: 'h', 3: 'w'}
    if dynamo:
        options |= dict(dynamic_shapes=(dict.fromkeys(free, DYNAMIC),) * len(inputs), verbose=False)
    else:
        axes = {name: {i: f'{name}_{axis}' for i, axis in free.items()} for name in [*names, 'output']}
        options |= dict(output_names=['output'], dynamic_axes=axes)
    with onnx_domain.domain_operators(), torch.no_grad():
        torch.onnx.export(model, inputs, path, dynamo=dynamo, input_names=names, **options)
    count = onnx_domain.add_functions(path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    nodes = [node for node in proto.graph.node if node.domain]
    assert len(nodes) == count and {node.domain for node in nodes} == {'carafe_plugin'}
    assert {entry.domain: entry.version for entry in proto.opset_import}['carafe_plugin'] == 1
    assert proto.ir_version >= 10
    return proto, nodes


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('k, groups, s', [(5, 1, 2), (3, 2, 3)])
def test_operator_in_onnxruntime(name, k, groups, s, tmp_path):
    model = Operator(name, k, groups, s).eval()
    sizes = (2, 6, 7), (1, 9, 5), (0, 4, 6)
    inputs = [operator_inputs(name, n, 4 * groups, h, w, k, groups, s) for n, h, w in sizes]
    proto, [node] = to_onnx(model, inputs[0], tmp_path / 'model.onnx')
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == dict(
        kernel_size=k,
        group_size=groups,
        scale_factor=s,
        down='down' in name,
        plugin_namespace=b'carafe_plugin',
    )
    [function] = proto.functions
    assert (node.op_type, node.overload) == (function.name, function.overload) and node.op_type == NAMES[name]
    assert {inner.domain for inner in function.node} == {''}
    assert_onnx_equal(proto, model, *inputs, tolerance=OPERATOR[torch.float32])


@pytest.mark.parametrize('dynamo', [False, pytest.param(True, marks=[pytest.mark.slow, needs_onnx_nodes])])
def test_upsampler_of_several_operators(dynamo, tmp_path):
    """Two reassemblies of other sizes, which need functions of their own, and a similarity."""
    up = FreqFusion(8, compressed_channels=8).eval()
    for p in up.parameters():
        torch.nn.init.normal_(p, std=0.1)

    def call(n, h, w):
        return torch.randn(n, 8, h, w), torch.randn(n, 8, 2 * h, 2 * w)

    proto, nodes = to_onnx(up, call(2, 6, 7), tmp_path / 'model.onnx', dynamo)
    assert len(nodes) == 5 and len({(node.op_type, node.overload) for node in nodes}) == 3
    assert len(proto.functions) == 3
    assert_onnx_equal(proto, up, call(3, 5, 9), call(1, 1, 2), tolerance=LAYERS[torch.float32])


@needs_onnx_nodes
def test_module_by_dynamo(tmp_path):
    module = carafe_module(s=3, up_kernel=3, up_group=2)
    proto, _ = to_onnx(module, (torch.randn(2, 8, 6, 7),), tmp_path / 'model.onnx', dynamo=True)
    assert [node.op_type for node in proto.graph.node] == ['Conv', 'Conv', 'reassemble_softmax']
    assert_onnx_equal(proto, module, (torch.randn(1, 8, 9, 4),), tolerance=LAYERS[torch.float32])


def test_16_bit_inputs(tmp_path):
    """One function serves every dtype: it sums in float32 and returns what came."""
    model = Operator('carafe_softmax', 3, 1, 2).eval()
    inputs = tuple(x.half() for x in operator_inputs('carafe_softmax', 1, 4, 5, 6, 3, 1, 2))
    proto, _ = to_onnx(model, inputs, tmp_path / 'model.onnx')
    assert_onnx_equal(proto, model, inputs, tolerance=OPERATOR[torch.float16])
    with pytest.raises(TypeError, match=r'is for 32 and 16 bits, got torch\.float64'):
        to_onnx(model, tuple(x.double() for x in inputs), tmp_path / 'model.onnx')


def test_files_that_do_not_serve(tmp_path):
    path = tmp_path / 'model.onnx'
    inputs = operator_inputs('carafe_softmax', 1, 4, 5, 6, 3, 1, 2)
    model = Operator('carafe_softmax', 3, 1, 2).eval()
    with pytest.raises(ValueError, match='opsets 15 to 20, got opset 14'):
        to_onnx(model, inputs, path, opset_version=14)
    proto, [node] = to_onnx(model, inputs, path)
    node.op_type = 'reassembel'
    onnx.save(proto, path)
    with pytest.raises(ValueError, match="has no operator 'reassembel'; known: reassemble, "):
        onnx_domain.check_file(path)
    next(entry for entry in proto.opset_import if entry.domain).version = 2
    onnx.save(proto, path)
    said = re.escape(f'{path} is for version 2 of the domain carafe_plugin, must be version 1')
    with pytest.raises(ValueError, match=said):
        onnx_domain.check_file(path)


def test_functions_of_others_stay(tmp_path):
    path = tmp_path / 'model.onnx'
    inputs = operator_inputs('carafe_softmax', 1, 4, 5, 6, 3, 1, 2)
    proto, _ = to_onnx(Operator('carafe_softmax', 3, 1, 2).eval(), inputs, path)
    opset = onnx.helper.make_opsetid('', 17)
    negate = onnx.helper.make_node('Neg', ['x'], ['y'])
    proto.functions.append(onnx.helper.make_function('other', 'Negate', ['x'], ['y'], [negate], [opset]))
    onnx.save(proto, path)
    onnx_domain.add_functions(path)
    assert sorted(f.domain for f in onnx.load(path).functions) == ['carafe_plugin', 'other']
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    'place, message',
    [
        ('If', 'is inside a function, an If or a Loop'),
        ('function', 'is inside a function'),
        ('graph', "reassemble '' lacks the attribute kernel_size"),
    ],
)
def test_nodes_that_get_no_function(place, message, tmp_path):
    """A file that would be left half done is refused, and stays as it is."""
    path = tmp_path / 'model.onnx'
    helper = onnx.helper
    value = helper.make_tensor_value_info('x', 1, [None] * 4)
    result = helper.make_tensor_value_info('y', 1, [None] * 4)
    ours = helper.make_node('reassemble', ['x', 'x'], ['y'], domain='carafe_plugin')
    nodes, functions = [ours], []
    opsets = [helper.make_opsetid('', 17), helper.make_opsetid('carafe_plugin', 1)]

    def branch(node):
        bodies = {key: helper.make_graph([node], key, [], [result]) for key in ('then_branch', 'else_branch')}
        return helper.make_node('If', ['yes'], ['y'], **bodies)

    if place == 'If':
        nodes = [branch(branch(ours))]
    elif place == 'function':
        functions = [helper.make_function('other', 'Around', ['x'], ['y'], [ours], opsets)]
        nodes = [helper.make_node('Around', ['x'], ['y'], domain='other')]
    graph = helper.make_graph(nodes, 'graph', [value], [result])
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        onnx_domain.add_functions(path)
    assert path.read_bytes() == before
