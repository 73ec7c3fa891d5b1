# SPDX-License-Identifier: Apache-2.0
"""The operators as OpenVINO runs them by the extension, and the files that hold them as nodes."""

import importlib.metadata
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import carafe_plugin
from carafe_plugin.openvino import extension_path, read_model
from tests.ops.native_cases import expected, make_inputs
from tests.tolerances import LAYERS, OPERATOR, within

ov = pytest.importorskip('openvino', reason='openvino is not installed')
onnx = pytest.importorskip('onnx', reason='needs the onnx extra')

try:
    EXTENSION = extension_path()
except FileNotFoundError as why_not:
    pytest.skip(f'no OpenVINO extension: {why_not}', allow_module_level=True)

# By operator: its tensors, and the places of these and of the result in what native_cases makes.
OPERATORS = dict(
    reassemble=(('features', 'masks'), (0, 1), 0),
    reassemble_softmax=(('features', 'logits'), (0, 2), 3),
    correlate=(('output', 'features'), (3, 0), 1),
)
TYPES = {torch.float32: 'f32', torch.float64: 'f64', torch.float16: 'f16', torch.bfloat16: 'bf16'}
ONNX_TYPES = dict(f32='FLOAT', f64='DOUBLE', f16='FLOAT16', bf16='BFLOAT16')
DYNAMIC = ('n', 'c', 'h', 'w')
# k, G, s, down
SIZES = [
    (5, 1, 2, False),
    (3, 2, 1, False),
    (1, 3, 3, False),
    (7, 1, 2, True),
    (3, 3, 3, True),
    (5, 2, 4, False),
]


@pytest.fixture
def core():
    core = ov.Core()
    core.add_extension(EXTENSION)
    return core


def node(name, sizes, inputs=None, **changes):
    """A node of an operator; an attribute that is changed to None is left out."""
    k, groups, s, is_down = sizes
    attributes = dict(kernel_size=k, group_size=groups, scale_factor=s, down=int(is_down)) | changes
    kept = {key: value for key, value in attributes.items() if value is not None}
    inputs = inputs or OPERATORS[name][0]
    return onnx.helper.make_node(name, inputs, ['result'], domain='carafe_plugin', **kept)


def make_file(nodes, inputs, weights=(), functions=(), dtype='f32', version=1) -> bytes:
    """An ONNX file of these nodes; ``inputs`` has shapes by name, and the last node gives the result."""
    helper, kind = onnx.helper, getattr(onnx.TensorProto, ONNX_TYPES[dtype])
    values = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    result = helper.make_tensor_value_info(nodes[-1].output[0], kind, None)
    graph = helper.make_graph(nodes, 'graph', values, [result], list(weights))
    opsets = [helper.make_opsetid('', 18), helper.make_opsetid('carafe_plugin', version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))
    return model.SerializeToString()


def operator_file(name, sizes=(5, 1, 2, False), shapes=(DYNAMIC, 'abcd'), dtype='f32', version=1, **changes):
    inputs = dict(zip(OPERATORS[name][0], shapes, strict=True))
    return make_file([node(name, sizes, **changes)], inputs, dtype=dtype, version=version)


def to_openvino(tensor: torch.Tensor):
    kind = getattr(ov.Type, TYPES[tensor.dtype])
    if not tensor.numel():  # refused by the other form up to OpenVINO 2026.0
        return ov.Tensor(kind, ov.Shape(list(tensor.shape)))
    bits = tensor.contiguous().view(torch.uint16) if tensor.element_size() == 2 else tensor.contiguous()
    return ov.Tensor(bits.numpy(), list(tensor.shape), kind)


def from_openvino(tensor, dtype) -> torch.Tensor:
    assert tensor.element_type == getattr(ov.Type, TYPES[dtype])
    kept = np.array(tensor.data)  # a view ends with its tensor
    return (
        torch.from_numpy(kept.view(np.uint16)).view(dtype) if kept.itemsize == 2 else torch.from_numpy(kept)
    )


def compiled(core, model, threads=1):
    # Where the processor has bfloat16, OpenVINO's own choice is to compute in it.
    config = dict(INFERENCE_NUM_THREADS=threads, INFERENCE_PRECISION_HINT='f32')
    return core.compile_model(core.read_model(model, b''), 'CPU', config).create_infer_request()


def infer(request, *tensors) -> torch.Tensor:
    request.infer([to_openvino(tensor) for tensor in tensors])
    return from_openvino(request.get_output_tensor(), tensors[0].dtype)


@pytest.mark.parametrize('dtype', TYPES, ids=TYPES.get)
@pytest.mark.parametrize('name', OPERATORS)
def test_operators(core, name, dtype):
    _, places, result = OPERATORS[name]
    for k, groups, s, down in SIZES:
        sizes = (k, groups, s, down)
        inputs = make_inputs((2, 6, 5, 7), *sizes, dtype)
        exact = torch.from_numpy(expected(*inputs, *sizes)[result])
        given = [inputs[place] for place in places]
        model = core.read_model(operator_file(name, sizes, dtype=TYPES[dtype]), b'')
        # The operator's own sums in this type; the CPU plugin makes float32 of float16 and float64.
        output = ov.Tensor(model.output().element_type, ov.Shape(list(exact.shape)))
        assert model.evaluate([output], [to_openvino(tensor) for tensor in given])
        results = [(OPERATOR[dtype], from_openvino(output, dtype))]
        request = compiled(core, operator_file(name, sizes, dtype=TYPES[dtype]))
        in_plugin = OPERATOR[torch.float32 if dtype == torch.float64 else dtype]
        results.append((in_plugin, infer(request, *given)))
        for tolerance, got in results:
            torch.testing.assert_close(got.double(), exact, **within(tolerance, exact))


@pytest.mark.parametrize('name', OPERATORS)
def test_one_model_takes_size_after_size(core, name):
    _, places, result = OPERATORS[name]
    sizes = (3, 2, 2, False)
    request = compiled(core, operator_file(name, sizes), threads=2)
    for shape in [(2, 4, 5, 7), (1, 8, 1, 1), (0, 4, 3, 3), (3, 4, 9, 2), (2, 4, 5, 7)]:
        inputs = make_inputs(shape, *sizes, torch.float32)
        exact = torch.from_numpy(expected(*inputs, *sizes)[result])
        got = infer(request, *(inputs[place] for place in places))
        assert got.shape == exact.shape
        if got.numel():
            torch.testing.assert_close(got.double(), exact, **within(OPERATOR[torch.float32], exact))


@pytest.mark.parametrize('name', OPERATORS)
def test_known_shapes_and_types_reach_the_result(core, name):
    """Of 8 channels and G = 2, k = 5, s = 2."""
    features, fine = ('n', 8, 3, '?'), ('n', 8, 6, '?')
    channels = dict(reassemble=50, reassemble_softmax=200)
    second = ('n', channels.get(name), 6 if name == 'reassemble' else 3, 4)
    shapes = (fine, features) if name == 'correlate' else (features, second)
    result = core.read_model(operator_file(name, (5, 2, 2, False), shapes), b'').output()
    width = dict(reassemble='4', reassemble_softmax='8').get(name, '?')
    assert str(result.partial_shape) == f'[?,{50 if name == "correlate" else 8},6,{width}]'
    assert result.element_type == ov.Type.f32


def test_two_threads_give_the_bits_of_one(core):
    features, _, logits, _ = make_inputs((1, 64, 50, 84), 5, 1, 2, False, torch.float32)
    one, two = (
        infer(compiled(core, operator_file('reassemble_softmax'), threads), features, logits)
        for threads in (1, 2)
    )
    assert torch.equal(one, two)


@pytest.mark.skipif(not Path('/proc/self/schedstat').exists(), reason='needs /proc of Linux')
@pytest.mark.parametrize('threads', [1, 2])
def test_threads_are_those_of_openvino(core, threads):
    def nanoseconds():
        used = {}
        for task in Path('/proc/self/task').iterdir():
            used[task.name] = int((task / 'schedstat').read_text().split()[0])
        return used

    request = compiled(core, operator_file('reassemble_softmax'), threads)
    features, _, logits, _ = make_inputs((1, 256, 100, 168), 5, 1, 2, False, torch.float32)
    infer(request, features, logits)
    before, deadline = nanoseconds(), time.monotonic() + 30
    for _ in range(20):
        request.infer()
    # A busy machine may leave the second thread no turn for a while, and none at all in a short call.
    while threads == 2 and working(before, nanoseconds()) < 2 and time.monotonic() < deadline:
        request.infer()
    assert working(before, nanoseconds()) == threads


def working(before, after) -> int:
    """How many threads have a tenth or more of the time computed between two looks at their nanoseconds.

    The calling thread has some in any case: it reads these numbers.
    """
    spent = [after[name] - before.get(name, 0) for name in after]
    return sum(each >= sum(spent) / 10 for each in spent)


def layer_and_file(body=None):
    """A CARAFE layer, and an ONNX file of it with a node of ours and, by ``body``, a function of its name."""
    layer = carafe_plugin.build_upsampler(dict(type='carafe', compressed_channels=8), 16).eval()
    torch.nn.init.normal_(layer.content_encoder.weight, std=0.3)
    weights = [onnx.numpy_helper.from_array(v.numpy(), k) for k, v in layer.state_dict().items()]
    compress, encode = (
        [f'{name}.weight', f'{name}.bias'] for name in ('channel_compressor', 'content_encoder')
    )
    nodes = [
        onnx.helper.make_node('Conv', ['x', *compress], ['small']),
        onnx.helper.make_node('Conv', ['small', *encode], ['logits'], pads=[1, 1, 1, 1]),
        node('reassemble_softmax', (5, 1, 2, False), ['x', 'logits']),
    ]
    functions = []
    if body:
        opset = onnx.helper.make_opsetid('', 18)
        names = ['kernel_size', 'group_size', 'scale_factor', 'down']
        inner = onnx.helper.make_node(body, ['features'], ['y'])
        functions.append(
            onnx.helper.make_function(
                'carafe_plugin', 'reassemble_softmax', ['features', 'logits'], ['y'], [inner], [opset], names
            )
        )
    return layer, make_file(nodes, dict(x=('n', 16, 'h', 'w')), weights, functions)


@torch.no_grad()
@pytest.mark.parametrize('body', [None, 'Neg'])
def test_layer_by_the_extension_whatever_the_file_has_as_a_function(core, body):
    layer, file = layer_and_file(body)
    for shape in [(2, 16, 9, 7), (1, 16, 12, 10)]:
        x = torch.randn(shape)
        exact = layer(x)
        torch.testing.assert_close(infer(compiled(core, file), x), exact, **within(LAYERS[x.dtype], exact))


def test_openvinos_own_files(core, tmp_path):
    ov.save_model(core.read_model(operator_file('reassemble'), b''), tmp_path / 'model.xml')
    again = core.read_model(tmp_path / 'model.xml')
    attributes = again.get_result().input_value(0).get_node().get_attributes()
    assert attributes == dict(kernel_size=5, group_size=1, scale_factor=2, down=0)


FEATURES, LOGITS = (1, 6, 3, 4), (1, 100, 3, 4)


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(kernel_size=4), 'kernel_size must be odd, got 4'),
        (dict(kernel_size=0), 'kernel_size must be at least 1, got 0'),
        (dict(kernel_size=1025), 'kernel_size and scale_factor must be at most 1023, got 1025 and 2'),
        (dict(group_size=-1), 'group_size must be at least 1, got -1'),
        (dict(group_size=2**20 + 1), 'group_size must be at most 1048576, got 1048577'),
        (dict(scale_factor=0), 'scale_factor must be at least 1, got 0'),
        (dict(down=2), 'down must be 0 or 1, got 2'),
        (dict(down=None), 'attribute "down" is not set'),
        (dict(group_size=4), 'channels of features must be divisible by group_size=4, got 6'),
        (dict(shapes=((1, 6, 3), LOGITS)), r'features must have 4 dimensions, got shape \[1,6,3\]'),
        (dict(shapes=(FEATURES, (1, 100, 3))), r'logits must have 4 dimensions, got shape \[1,100,3\]'),
        (
            dict(shapes=(FEATURES, (1, 100, 3, 5))),
            r'logits must have shape \(N, G\*k\*k\*s\*s, H, W\) = \[1,100,3,4\] for features of shape '
            r'\[1,6,3,4\], got \[1,100,3,5\]',
        ),
        (
            dict(name='reassemble', shapes=(FEATURES, (1, 25, 6, 9))),
            r'masks must have shape \(N, G\*k\*k, s\*H, s\*W\) = \[1,25,6,8\]',
        ),
        (
            dict(name='reassemble', down=1, shapes=(FEATURES, (1, 25, 2, 3))),
            r'masks must have shape \(N, G\*k\*k, ceil\(H/s\), ceil\(W/s\)\) = \[1,25,2,2\]',
        ),
        (
            dict(name='correlate', shapes=((1, 5, 6, 8), FEATURES)),
            r'output must have shape \(N, C, s\*H, s\*W\) = \[1,6,6,8\]',
        ),
    ],
)
def test_bad_files(core, change, words):
    arguments = dict(name='reassemble_softmax', shapes=(FEATURES, LOGITS)) | change
    with pytest.raises(RuntimeError, match=words):
        core.read_model(operator_file(**arguments), b'')


def test_sizes_that_do_not_fit_at_run_time(core):
    # With one thread OpenVINO's CPU plugin loses the error, as it does those of its own operators.
    request = compiled(core, operator_file('reassemble_softmax'), threads=2)
    features, _, logits, _ = make_inputs((1, 4, 5, 7), 5, 1, 2, False, torch.float32)
    with pytest.raises(RuntimeError, match=r'logits must have shape .* = \[1,100,5,7\] .* got \[1,99,5,7\]'):
        infer(request, features, logits[:, 1:])


def test_read_model_adds_the_extension(tmp_path):
    (tmp_path / 'model.onnx').write_bytes(layer_and_file('Neg')[1])
    model = read_model(ov.Core(), tmp_path / 'model.onnx')
    assert 'reassemble_softmax' in {op.get_type_name() for op in model.get_ops()}


def test_without_the_extension_functions_take_the_place_of_nodes(tmp_path, monkeypatch):
    path = tmp_path / 'model.onnx'
    path.write_bytes(layer_and_file('Neg')[1])
    with pytest.raises(RuntimeError, match=r'carafe_plugin\.reassemble_softmax'):
        ov.Core().read_model(path)
    monkeypatch.setenv('CARAFE_LIBRARY_DIR', str(tmp_path))
    with pytest.warns(RuntimeWarning, match='standard operators serve: no extension is built for OpenVINO'):
        model = read_model(ov.Core(), path)
    x = torch.rand(1, 16, 3, 4).numpy()
    assert np.array_equal(ov.compile_model(model, 'CPU')(x)[0], -x)


def test_read_model_refuses_what_it_cannot_read(tmp_path, monkeypatch):
    path = tmp_path / 'model.onnx'
    path.write_bytes(operator_file('reassemble', version=2))
    with pytest.raises(ValueError, match=r'model\.onnx is for version 2 .* must be version 1'):
        read_model(ov.Core(), path)
    path.write_text('no model at all')
    with pytest.raises(ValueError, match=r'model\.onnx: not an ONNX file'):
        read_model(ov.Core(), path)
    path.write_bytes(operator_file('reassemble'))
    monkeypatch.setenv('CARAFE_LIBRARY_DIR', str(tmp_path))
    with pytest.raises(ValueError, match=r'have no functions, .*add_functions .*, and no extension'):
        read_model(ov.Core(), path)


def test_read_model_hands_on_other_formats(core, tmp_path):
    ov.save_model(core.read_model(operator_file('reassemble'), b''), tmp_path / 'model.xml')
    assert 'reassemble' in {op.get_type_name() for op in read_model(core, tmp_path / 'model.xml').get_ops()}


def test_why_there_is_no_extension(tmp_path, monkeypatch):
    monkeypatch.setenv('CARAFE_LIBRARY_DIR', str(tmp_path))
    (tmp_path / '_C_openvino_2020_1.so').touch()
    with pytest.raises(
        FileNotFoundError, match=r'for OpenVINO \d.*, but _C_openvino_2020_1\.so; .*make openvino'
    ):
        extension_path()

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'version', version)
    with pytest.raises(FileNotFoundError, match='openvino is not installed: pip install openvino'):
        extension_path()
