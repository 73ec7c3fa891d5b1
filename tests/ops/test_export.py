# SPDX-License-Identifier: Apache-2.0
"""The operators and the CARAFE module out of Python: ONNX, torch.export, AOTInductor, torch.compile."""

import io
import subprocess
import sys

import pytest
import torch

import carafe_plugin.ops
from carafe_plugin import build_upsampler
from carafe_plugin.ops import _native
from tests.tolerances import LAYERS, OPERATOR, within
from tests.torch_versions import DYNAMIC, needs_export

needs_native = pytest.mark.skipif(
    'cpu' not in _native.loaded, reason=f'no native library: {_native.why_not("cpu")}'
)
FUNCTIONS = carafe_plugin.ops.__all__
# A TracerWarning from this package's lines (a size that a graph would hold) stays an error.
EXPORTER_NOISE = pytest.mark.filterwarnings(
    'ignore::DeprecationWarning', 'ignore:Constant folding', 'ignore:.*treespec:FutureWarning'
)
pytestmark = [EXPORTER_NOISE, needs_export]


class Operator(torch.nn.Module):
    """A public function with its integers fixed."""

    def __init__(self, name, *integers):
        super().__init__()
        self.function, self.integers = getattr(carafe_plugin.ops, name), integers

    def forward(self, first, second):
        return self.function(first, second, *self.integers)


def operator_inputs(name, n, c, h, w, k, groups, s):
    if name == 'correlate':
        return torch.randn(n, c, h * s, w * s), torch.randn(n, c, h, w)
    size = (-(-h // s), -(-w // s)) if 'down' in name else (h, w) if 'softmax' in name else (h * s, w * s)
    channels = groups * k * k * (s * s if name == 'carafe_softmax' else 1)
    return torch.randn(n, c, h, w), torch.randn(n, channels, *size)


def carafe_module(s=2, **cfg):
    """A CARAFE module whose kernels differ visibly from one another."""
    module = build_upsampler(dict(type='carafe', compressed_channels=4, **cfg), 8, s).eval()
    torch.nn.init.normal_(module.content_encoder.weight, std=0.3)
    return module


def to_onnx(model, inputs, dynamo, **options):
    """Export with dynamic batch, height and width of every input and output; standard operators only."""
    onnx = pytest.importorskip('onnx', reason='needs the onnx extra')
    pytest.importorskip('onnxscript', reason='needs the onnx extra')
    if dynamo:
        shapes = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},) * len(inputs)
        program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)
        proto = program.model_proto
    else:
        file = io.BytesIO()
        output = model(*inputs)
        names = [f'input{i}' for i in range(len(inputs))]
        outputs = [f'output{i}' for i in range(len(output) if isinstance(output, tuple) else 1)]
        torch.onnx.export(
            model,
            inputs,
            file,
            dynamo=False,
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: 'n', 2: f'h_{name}', 3: f'w_{name}'} for name in names + outputs},
            **options,
        )
        proto = onnx.load_from_string(file.getvalue())
    assert {opset.domain for opset in proto.opset_import} == {''} and not proto.functions
    assert {node.domain for node in proto.graph.node} == {''}
    return proto


def assert_onnx_equal(proto, model, *calls, tolerance):
    """The graph gives in onnxruntime what the model, outside of an exporter, gives in PyTorch."""
    ort = pytest.importorskip('onnxruntime', reason='needs the onnx extra')
    session = ort.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
    names = [x.name for x in session.get_inputs()]
    for inputs in calls:
        with torch.no_grad():
            expected = model(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        outputs = session.run(None, {k: v.numpy() for k, v in zip(names, inputs, strict=True)})
        for output, exact in zip(outputs, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(output), exact, **within(tolerance, exact))


def check_operator(name, k, groups, s, dynamo):
    def inputs(n, h, w):
        return operator_inputs(name, n, 4 * groups, h, w, k, groups, s)

    model = Operator(name, k, groups, s).eval()
    proto = to_onnx(model, inputs(2, 6, 7), dynamo)
    assert_onnx_equal(proto, model, inputs(1, 9, 5), inputs(3, 1, 12), tolerance=OPERATOR[torch.float32])


@pytest.mark.parametrize('integers', [(5, 1, 2), (3, 2, 3), (1, 4, 1)], ids=str)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_onnx_by_torchscript(name, integers):
    check_operator(name, *integers, dynamo=False)


def test_onnx_by_dynamo():
    check_operator('carafe_downsample', 3, 2, 2, dynamo=True)


@pytest.mark.slow
@pytest.mark.parametrize('integers', [(5, 1, 2), (3, 2, 3), (1, 4, 1)], ids=str)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_onnx_by_dynamo_in_full(name, integers):
    check_operator(name, *integers, dynamo=True)


@pytest.mark.parametrize('dynamo', [False, True], ids=['torchscript', 'dynamo'])
def test_onnx_of_the_module(dynamo):
    module = carafe_module(s=3, up_kernel=3, up_group=2)
    proto = to_onnx(module, (torch.randn(2, 8, 6, 7),), dynamo)
    assert_onnx_equal(proto, module, (torch.randn(1, 8, 9, 4),), tolerance=LAYERS[torch.float32])


@pytest.mark.parametrize('groups', [1, 2])
def test_onnx_takes_an_empty_batch(groups):
    """As a mask head passes on where nothing is detected."""
    ort = pytest.importorskip('onnxruntime', reason='needs the onnx extra')
    module = carafe_module(up_kernel=3, up_group=groups)
    proto = to_onnx(module, (torch.randn(2, 8, 6, 7),), dynamo=False)
    session = ort.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
    [output] = session.run(None, {'input0': torch.zeros(0, 8, 14, 14).numpy()})
    assert output.shape == (0, 8, 28, 28)


def test_onnx_of_16_bit_inputs():
    """Sums are taken in float32 as everywhere."""
    model = Operator('carafe_softmax', 3, 1, 2).eval()
    inputs = [x.half() for x in operator_inputs('carafe_softmax', 1, 4, 5, 6, 3, 1, 2)]
    proto = to_onnx(model, tuple(inputs), dynamo=False)
    assert_onnx_equal(proto, model, inputs, tolerance=OPERATOR[torch.float16])


def test_onnx_refuses_what_eager_refuses():
    features, logits = operator_inputs('carafe_softmax', 1, 4, 5, 6, 3, 1, 2)
    with pytest.raises(
        ValueError, match=r'= \(1, 36, 5, 6\) for features of shape \(1, 4, 5, 6\), got \(1, 36, 5, 5\)'
    ):
        to_onnx(Operator('carafe_softmax', 3, 1, 2), (features, logits[..., :5]), dynamo=False)


@needs_native
@pytest.mark.parametrize('name', FUNCTIONS)
def test_torch_export(name):
    model, integers = Operator(name, 3, 2, 2), (3, 2, 2)
    dim = torch.export.Dim.AUTO
    shapes = ({0: dim, 2: dim, 3: dim},) * 2
    program = torch.export.export(model, operator_inputs(name, 2, 4, 6, 8, *integers), dynamic_shapes=shapes)
    assert 'torch.ops.carafe_plugin.' in program.graph_module.code
    inputs = operator_inputs(name, 3, 4, 10, 4, *integers)
    torch.testing.assert_close(program.module()(*inputs), model(*inputs))


LOAD = """
import sys, torch, carafe_plugin
run = torch._inductor.aoti_load_package(sys.argv[1])
inputs, expected = torch.load(sys.argv[2])
torch.testing.assert_close(run(inputs), expected)
assert 'mmengine' not in sys.modules
"""


@needs_native
@pytest.mark.slow
def test_aot_inductor_package(tmp_path):
    """The package is run by a process that knows the operators and nothing else, at another size."""
    module = carafe_module()
    shapes = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},)
    with torch.no_grad():
        program = torch.export.export(module, (torch.randn(2, 8, 6, 7),), dynamic_shapes=shapes)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / 'm.pt2'))
        inputs = torch.randn(3, 8, 5, 12)
        torch.save((inputs, module(inputs)), tmp_path / 'case.pt')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', LOAD, package, tmp_path / 'case.pt'], check=True)


@needs_native
@pytest.mark.slow
def test_compile_by_inductor():
    torch._dynamo.reset()
    module = carafe_module()
    compiled = torch.compile(module, fullgraph=True)
    for height in (5, 6, 7):  # the second size makes the graph dynamic
        results = []
        for run in (module, compiled):
            module.zero_grad()
            x = torch.rand(2, 8, height, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
            output = run(x)
            output.square().sum().backward()
            results.append((output, x.grad, *(p.grad.clone() for p in module.parameters())))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_forward_mode(name):
    """The tangent is the limit of a difference; the plain PyTorch operators, which have a rule, serve."""
    integers = (3, 2, 2)
    inputs = tuple(x.double() for x in operator_inputs(name, 1, 4, 3, 5, *integers))
    tangents = tuple(torch.randn_like(x) for x in inputs)
    function = Operator(name, *integers)
    output, tangent = torch.func.jvp(function, inputs, tangents)
    torch.testing.assert_close(output, function(*inputs))
    ahead, behind = (
        function(*(x + step * t for x, t in zip(inputs, tangents, strict=True))) for step in (1e-6, -1e-6)
    )
    torch.testing.assert_close((ahead - behind) / 2e-6, tangent, rtol=1e-5, atol=1e-7)
    if name == 'carafe_softmax':
        full = torch.func.hessian(lambda x: function(x, inputs[1]).sin().sum())(inputs[0])
        reverse = torch.autograd.functional.hessian(lambda x: function(x, inputs[1]).sin().sum(), inputs[0])
        torch.testing.assert_close(full, reverse)
