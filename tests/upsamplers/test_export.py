# SPDX-License-Identifier: Apache-2.0
"""Upsamplers as ONNX graphs of standard operators, run at sizes that they were not exported at."""

import pytest
import torch

import carafe_plugin
from carafe_plugin.upsamplers import UPSAMPLERS
from tests.ops.test_export import EXPORTER_NOISE, assert_onnx_equal, to_onnx
from tests.tolerances import LAYERS, within
from tests.torch_versions import needs_export
from tests.upsamplers.cases import CASES, build

pytestmark = [EXPORTER_NOISE, needs_export]
# What CI exports. Dynamo takes up to two minutes for a graph: some variants are left out altogether.
QUICK = ('a2u', 'dysample', 'fade', 'freqfusion', 'sapa')
DYNAMO = (*UPSAMPLERS, 'carafe-sigmoid_normalized', 'dysample-s+', 'fade-gate', 'sapa-gated')


class Fused(torch.nn.Module):
    """What a top-down path exports."""

    def __init__(self, upsampler):
        super().__init__()
        self.upsampler = upsampler

    def forward(self, x, guide):
        return self.upsampler.fuse(x, guide)


def model_and_call(case):
    """The upsampler as a host runs it, with weights that matter, and what makes its arguments of a size."""
    up = build(case).eval()
    for p in up.parameters():
        torch.nn.init.normal_(p, std=0.1)
    guided = up.needs_guide

    def call(n, height, width, missing=0):
        x = torch.randn(n, 8, height, width)
        return (x, torch.randn(n, 8, 2 * height - missing, 2 * width + missing)) if guided else (x,)

    return Fused(up).eval() if guided else up, call


def check(case, dynamo):
    """Exported where no row is missing, run where none is, and where one is missing and one too many."""
    model, call = model_and_call(case)
    proto = to_onnx(model, call(2, 6, 7), dynamo)
    assert_onnx_equal(proto, model, call(3, 5, 9), call(1, 2, 4, missing=1), tolerance=LAYERS[torch.float32])


@pytest.mark.parametrize(
    'case', [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_onnx_by_torchscript(case):
    check(case, dynamo=False)


# An older opset has no way to read a map at given points.
FLOORS = {name: 16 if name in ('dysample', 'freqfusion', 'gum', 'sapa_deform') else 11 for name in UPSAMPLERS}


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[] if name in ('carafe', 'sapa', 'dysample') else pytest.mark.slow)
        for name in UPSAMPLERS
    ],
)
def test_oldest_opset(name):
    """The floors of docs/export.md, in onnxruntime at other sizes; and no lower one where it is 16."""
    floor, (model, call) = FLOORS[name], model_and_call(name)
    proto = to_onnx(model, call(2, 6, 7), dynamo=False, opset_version=floor)
    assert proto.opset_import[0].version == floor
    assert_onnx_equal(proto, model, call(3, 5, 9), tolerance=LAYERS[torch.float32])
    if floor == 16:
        with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match='grid_sampler'):
            to_onnx(model, call(2, 6, 7), dynamo=False, opset_version=15)


def assert_openvino_equal(proto, model, *calls, path):
    """As :func:`assert_onnx_equal`, in OpenVINO on a CPU."""
    openvino = pytest.importorskip('openvino', reason='openvino is not installed')
    path.write_bytes(proto.SerializeToString())
    core = openvino.Core()
    # One thread: many small maps are quickest so, on a busy machine too.
    hints = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
    run = core.compile_model(core.read_model(path), 'CPU', hints)
    for args in calls:
        expected = model(*args)
        output = torch.from_numpy(run([x.numpy() for x in args])[0])
        torch.testing.assert_close(output, expected, **within(LAYERS[torch.float32], expected))


@pytest.mark.slow
@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_many_sizes(case, runtime, tmp_path):
    """No size at which a runtime's arithmetic decides otherwise than PyTorch's."""
    model, call = model_and_call(case)
    proto = to_onnx(model, call(1, 6, 7), dynamo=False)
    smallest = 2 if case == 'jbu' else 1  # ONNX reflects no map that is smaller than the border
    sizes = range(1, 100) if case == 'a2u' else (*range(smallest, 32), 49, 77, 98, 101, 150, 199)
    calls = [call(1, size, 3) for size in sizes]
    if runtime == 'onnxruntime':
        assert_onnx_equal(proto, model, *calls, tolerance=LAYERS[torch.float32])
    else:
        assert_openvino_equal(proto, model, *calls, path=tmp_path / 'model.onnx')


@pytest.mark.parametrize(
    'case', [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_torchscript_trace(case):
    """In the plain form a trace holds PyTorch's operators alone and serves any size."""
    model, call = model_and_call(case)
    with carafe_plugin.plain_operators():
        traced = torch.jit.trace(model, call(2, 6, 7), check_trace=False)
    assert 'carafe_plugin::' not in str(traced.inlined_graph)
    for args in (call(1, 9, 5), call(3, 4, 12)):
        expected = model(*args)
        torch.testing.assert_close(traced(*args), expected, **within(LAYERS[torch.float32], expected))


class AroundUpsamplers(torch.fx.Tracer):
    """As docs/export.md has it."""

    def is_leaf_module(self, module, name):
        return isinstance(module, carafe_plugin.Upsampler) or super().is_leaf_module(module, name)


@pytest.mark.parametrize('name', list(UPSAMPLERS))
def test_symbolic_trace(name):
    """torch.fx follows those that look at no size; any of them as a node of a larger graph."""
    up = build(name).eval()
    guides = [torch.randn(1, 8, 10, 12)] if up.needs_guide else []
    args = (torch.randn(1, 8, 5, 6), *guides)
    if up.needs_guide or name == 'carafe':
        with pytest.raises((TypeError, torch.fx.proxy.TraceError)):
            torch.fx.symbolic_trace(up)
    else:
        torch.testing.assert_close(torch.fx.symbolic_trace(up)(*args), up(*args))

    class Host(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up = up

        def forward(self, x, guide=None):
            return self.up(x, guide) + 1

    host = Host().eval()
    graph = torch.fx.GraphModule(host, AroundUpsamplers().trace(host))
    torch.testing.assert_close(graph(*args), host(*args))


@pytest.mark.slow
@pytest.mark.parametrize('case', DYNAMO)
def test_onnx_by_dynamo(case):
    check(case, dynamo=True)


@pytest.mark.parametrize(
    'name', ['carafe', 'fade', 'sapa', pytest.param('freqfusion', marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_openvino(name, tmp_path):
    """Sizes that follow from one another, behind convolutions, which its optimisations look at."""
    model, call = model_and_call(name)
    proto = to_onnx(model, call(2, 6, 7), dynamo=False)
    calls = call(1, 8, 12), call(2, 9, 7), call(1, 1, 2)
    assert_openvino_equal(proto, model, *calls, path=tmp_path / 'model.onnx')
