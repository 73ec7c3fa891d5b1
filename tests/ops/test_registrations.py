# SPDX-License-Identifier: Apache-2.0
"""The native operators as citizens of PyTorch: autograd, compile, export, vmap, FLOPs, errors."""

import itertools
import os
import re
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from carafe_plugin.ops import _native, carafe, carafe_softmax, reference
from tests.ops.native_cases import LAYOUTS, make_inputs, on_devices
from tests.tolerances import OPERATOR, within
from tests.torch_versions import VERSION, needs_compile, needs_export, needs_opcheck

needs_native = pytest.mark.skipif(
    'cpu' not in _native.loaded, reason=f'no native library: {_native.why_not("cpu")}'
)

ops = torch.ops.carafe_plugin
SIZES = [(3, 2, 2, False), (5, 1, 1, False), (1, 4, 3, False), (3, 1, 2, True), (5, 2, 3, True)]


def calls(shape, sizes, layout='contiguous', dtype=torch.float64, second_dtype=None, device='cpu'):
    """Each operator's name, tensors and other arguments."""
    features, masks, logits, grad = make_inputs(shape, *sizes, dtype, layout, device=device)
    masks, logits = masks.to(second_dtype or dtype), logits.to(second_dtype or dtype)
    return [
        ('reassemble', (features, masks), sizes),
        ('correlate', (grad, features), sizes),
        ('scatter', (grad, masks), (*features.shape[2:], *sizes)),
        ('reassemble_softmax', (features, logits), sizes),
        ('reassemble_softmax_backward', (grad, features, logits), sizes),
    ]


@needs_native
@on_devices
@pytest.mark.parametrize('sizes', SIZES, ids=str)
def test_gradients_of_first_and_second_order(device, sizes):
    for name, tensors, others in calls((1, 4, 2, 3), sizes, device=device):
        tensors = [x.requires_grad_() for x in tensors]
        operator = getattr(ops, name)
        assert torch.autograd.gradcheck(lambda *x, f=operator, o=others: f(*x, *o), tensors)
        assert torch.autograd.gradgradcheck(
            lambda *x, f=operator, o=others: f(*x, *o), tensors, fast_mode=True
        )


@needs_native
def test_third_order_equals_the_reference():
    sizes = (3, 2, 2)
    features, _, logits, _ = make_inputs((1, 4, 2, 3), *sizes, False)

    def third(function):
        leaves = [features.clone().requires_grad_(), logits.clone().requires_grad_()]
        value = function(*leaves, *sizes).sin().sum()
        for _ in range(3):
            grads = torch.autograd.grad(value, leaves, create_graph=True)
            value = sum(x.pow(2).sum() for x in grads)
        return value

    torch.testing.assert_close(third(carafe_softmax), third(reference.carafe_softmax))


@needs_native
@pytest.mark.parametrize('needs', [(True, False), (False, True)])
def test_only_the_gradients_asked_for(needs):
    features, masks, logits, _ = make_inputs((1, 4, 2, 3), 3, 1, 2, False)
    for function, other in ((carafe, masks), (carafe_softmax, logits)):
        leaves = [x.clone().requires_grad_(need) for x, need in zip((features, other), needs, strict=True)]
        function(*leaves, 3).sum().backward()
        assert [x.grad is not None for x in leaves] == list(needs)


@needs_native
@needs_opcheck
@pytest.mark.parametrize(
    'layout, sizes, dtypes',
    [
        ('contiguous', (3, 2, 2, False), (torch.float32,)),
        ('sliced', (3, 1, 2, True), (torch.float64,)),
        ('channels_last', (3, 1, 2, False), (torch.bfloat16, torch.float32)),
    ],
)
@on_devices
def test_opcheck(device, layout, sizes, dtypes):
    for name, tensors, others in calls((2, 4, 3, 5), sizes, layout, *dtypes, device=device):
        tensors = [x.detach().requires_grad_() for x in tensors]
        tolerance = {} if len(dtypes) == 1 else dict(rtol=OPERATOR[dtypes[0]], atol=OPERATOR[dtypes[0]])
        torch.library.opcheck(getattr(ops, name).default, (*tensors, *others), **tolerance)


@needs_native
@pytest.mark.parametrize('sizes', SIZES)
def test_gradients_of_32_bit_masks_are_not_rounded_to_the_16_bits_of_the_features(sizes):
    """Autocast's normal case: the gradient has all the digits of its dtype."""
    mixed = calls((2, 8, 3, 5), sizes, 'contiguous', torch.bfloat16, torch.float32)
    for name, (first, masks), others in (mixed[0], mixed[2]):  # reassemble, scatter
        gradients = []
        for dtype in (torch.float32, torch.float64):
            values = first if dtype == torch.float32 else first.double()
            leaf = masks.detach().to(dtype).requires_grad_()
            output = getattr(ops, name)(values, leaf, *others)
            cotangent = torch.linspace(-1, 1, output.numel()).bfloat16().view_as(output)
            gradients.append(torch.autograd.grad(output, leaf, cotangent.to(output))[0].double())
        torch.testing.assert_close(*gradients, **within(OPERATOR[torch.float32], gradients[1]))


@needs_native
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('sizes', SIZES)
def test_traced_results_have_the_native_dtypes_and_layouts(sizes, layout):
    """Of a mixed call in dtypes and layouts, and in the dtype that ``correlate`` is asked for."""
    dtypes = torch.bfloat16, torch.float32
    found = calls((2, 8, 3, 5), sizes, layout, *dtypes)
    found += [('correlate', tensors, (*others, torch.float32)) for _, tensors, others in found[1:2]]
    for channels_last_first, (name, tensors, others) in itertools.product((False, True), found):
        if channels_last_first:
            tensors = (tensors[0].contiguous(memory_format=torch.channels_last), *tensors[1:])
        native = getattr(ops, name)(*tensors, *others)
        traced = getattr(ops, name)(*(x.to('meta') for x in tensors), *others)
        pairs = zip(native, traced, strict=True) if isinstance(native, tuple) else [(native, traced)]
        for a, b in pairs:
            assert (b.dtype, b.shape, b.stride()) == (a.dtype, a.shape, a.stride()), name


@needs_native
@needs_compile
@pytest.mark.parametrize('dynamic', [False, True])
@pytest.mark.parametrize('function', [carafe, carafe_softmax])
@on_devices
def test_compile_without_graph_break(device, function, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager', dynamic=dynamic)
    for height in (3, 4):
        features, masks, logits, grad = make_inputs(
            (2, 4, height, 5), 5, 2, 2, False, torch.float32, device=device
        )
        other = masks if function is carafe else logits
        results = []
        for run in (function, compiled):
            leaves = [features.clone().requires_grad_(), other.clone().requires_grad_()]
            output = run(*leaves, 5, 2)
            output.backward(grad)
            results.append((output, *(x.grad for x in leaves)))
        torch.testing.assert_close(*results)


@needs_native
@needs_export
def test_export_with_dynamic_sizes():
    class Model(torch.nn.Module):
        def forward(self, features, logits):
            return carafe_softmax(features, logits, 3, 1, 2)

    dim = torch.export.Dim.AUTO
    shapes = ({0: dim, 2: dim, 3: dim},) * 2
    features, _, logits, _ = make_inputs((2, 4, 3, 5), 3, 1, 2, False)
    program = torch.export.export(Model(), (features, logits), dynamic_shapes=shapes)
    assert 'carafe_plugin.reassemble_softmax' in program.graph_module.code
    features, _, logits, _ = make_inputs((3, 4, 6, 2), 3, 1, 2, False)
    torch.testing.assert_close(program.module()(features, logits), carafe_softmax(features, logits, 3))


@needs_native
@pytest.mark.parametrize('in_dims', [(0, 0), (1, None), (None, 2)], ids=str)
@on_devices
def test_vmap(device, in_dims):
    for name, (*tensors,), others in calls((2, 4, 3, 5), (3, 2, 2, False), device=device):
        dims = (*in_dims, *(None,) * (len(tensors) - 2))
        batched = [
            x if dim is None else torch.stack([x, x.flip(0), 2 * x], dim)
            for x, dim in zip(tensors, dims, strict=True)
        ]
        operator = getattr(ops, name)
        run = torch.vmap(lambda *x, f=operator, o=others: f(*x, *o), in_dims=dims)
        for i in range(3):
            one = [x if dim is None else x.select(dim, i) for x, dim in zip(batched, dims, strict=True)]
            torch.testing.assert_close(
                torch.utils._pytree.tree_map(lambda x, i=i: x[i], run(*batched)), operator(*one, *others)
            )


@needs_native
def test_flops_count_two_per_multiply_add():
    features, _, logits, _ = make_inputs((2, 4, 3, 5), 5, 2, 2, False)
    features.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        output = carafe_softmax(features, logits, 5, 2)
        assert counter.get_total_flops() == 2 * 25 * output.numel()
        output.sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 25 * output.numel()


@needs_native
@on_devices
def test_deterministic_algorithms_are_accepted(device):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        features, _, logits, _ = make_inputs((1, 4, 2, 3), 3, 1, 2, False, device=device)
        carafe_softmax(features.requires_grad_(), logits, 3).sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)


@needs_native
def test_onnx_exporters_meet_the_reference(monkeypatch):
    features, _, logits, _ = make_inputs((1, 4, 2, 3), 3, 1, 2, False)
    assert _native.operator('reassemble_softmax', features, logits) is not None
    monkeypatch.setattr(torch.onnx, 'is_in_onnx_export', lambda: True)
    assert _native.operator('reassemble_softmax', features, logits) is None


FEATURES, MASKS, LOGITS, GRAD = (x.float() for x in make_inputs((2, 6, 4, 5), 5, 1, 2, False))
BAD = [
    ('kernel_size must be odd, got 4', 'reassemble', (FEATURES, MASKS, 4, 1, 2)),
    ('group_size must be at least 1, got 0', 'reassemble', (FEATURES, MASKS, 5, 0, 2)),
    ('scale_factor must be at least 1, got 0', 'reassemble', (FEATURES, MASKS, 5, 1, 0)),
    ('divisible by group_size=4, got 6', 'reassemble', (FEATURES, MASKS, 5, 4, 2)),
    ('masks must be floating-point', 'reassemble', (FEATURES, MASKS.long(), 5, 1, 2)),
    (r'features must have 4 dimensions, got shape \(6, 4, 5\)', 'reassemble', (FEATURES[0], MASKS, 5, 1, 2)),
    (
        r'masks must have shape \(N, G\*k\*k, s\*H, s\*W\) = \(2, 25, 12, 15\).*got \(2, 25, 8, 10\)',
        'reassemble',
        (FEATURES, MASKS, 5, 1, 3),
    ),
    (
        r'logits must have shape .* = \(2, 100, 4, 5\).*got \(2, 25, 8, 10\)',
        'reassemble_softmax',
        (FEATURES, MASKS, 5, 1, 2),
    ),
    (
        r'output must have shape .* = \(2, 6, 8, 10\).*got \(2, 6, 4, 5\)',
        'correlate',
        (FEATURES, FEATURES, 5, 1, 2),
    ),
    (
        r'output must have shape .* = \(2, 6, 8, 12\).*got \(2, 6, 8, 10\)',
        'scatter',
        (GRAD, MASKS, 4, 6, 5, 1, 2),
    ),
    (r'output must have 4 dimensions, got shape \(6, 8, 10\)', 'scatter', (GRAD[0], MASKS, 4, 5, 5, 1, 2)),
    (r'masks must have shape .* = \(2, 9, 8, 10\)', 'scatter', (GRAD, MASKS, 4, 5, 3, 1, 2)),
    (
        r'grad must have shape .* = \(2, 6, 8, 10\)',
        'reassemble_softmax_backward',
        (FEATURES, FEATURES, LOGITS, 5, 1, 2),
    ),
]


@needs_native
@pytest.mark.parametrize('match, name, arguments', BAD)
def test_bad_arguments_of_direct_calls(match, name, arguments):
    """A direct call raises RuntimeError with the words of the public functions, in eager and when traced."""
    with pytest.raises(RuntimeError, match=match):
        getattr(ops, name)(*arguments)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, pytest.raises(RuntimeError, match=match):
        getattr(ops, name)(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments))


@pytest.mark.parametrize(
    'error, match, arguments',
    [
        (TypeError, 'one dtype, got torch.float32 and torch.float64', (FEATURES, MASKS.double(), 5)),
        (ValueError, r'masks must have shape', (FEATURES, MASKS, 3)),
    ],
)
def test_bad_arguments_under_fake_tensors_and_compile(error, match, arguments):
    with FakeTensorMode() as mode, pytest.raises(error, match=match):
        carafe(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments))
    torch._dynamo.reset()
    with pytest.raises(error, match=match):
        torch.compile(carafe, backend='aot_eager')(*arguments)
    torch._dynamo.reset()


def run_python(code, **environment):
    command = [sys.executable, '-W', 'always', *code]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )


def test_environment_report():
    report = run_python(['-m', 'carafe_plugin.env']).stdout
    if 'cpu' in _native.loaded:
        binding = 'stable ABI' if VERSION >= (2, 10) else f'ATen, for torch {VERSION[0]}.{VERSION[1]} alone'
        assert f'cpu operators:     native, {binding}' in report and 'instruction set' in report
    report = run_python(['-m', 'carafe_plugin.env'], CARAFE_NATIVE='0').stdout
    assert 'cpu operators:     plain PyTorch: switched off by CARAFE_NATIVE=0' in report


@pytest.mark.parametrize(
    'files, reason',
    [
        (
            ['_C_cpu_torch2_0.so'],
            '_C_cpu_torch2_0.so is for another torch than .*: in the source folder, pip',
        ),
        (
            [],
            'the library was not built; where a C[+][+] compiler is: in the source folder, pip install .*',
        ),
        (['_C_cpu.so', f'_C_cpu_torch{VERSION[0]}_{VERSION[1]}.so'], '_C_cpu.*so does not load: .*'),
    ],
)
def test_environment_report_says_why_no_library_serves(tmp_path, files, reason):
    """Also not the library of another torch, which would crash rather than fail to load."""
    for file in files:
        (tmp_path / file).write_bytes(b'not a library')
    report = run_python(['-m', 'carafe_plugin.env'], CARAFE_LIBRARY_DIR=str(tmp_path)).stdout
    assert re.search(f'cpu operators:     plain PyTorch: {reason}', report)


CALL = """
import torch
from carafe_plugin.ops import _native, carafe
if {absent}:
    _native.loaded.clear()
    _native.missing['cpu'] = 'removed by a test'
for _ in range(2):
    carafe(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 4, 4), 1)
"""


def test_reference_serves_with_one_warning():
    stderr = run_python(['-c', CALL.format(absent=True)], CARAFE_NATIVE='1').stderr
    assert (
        stderr.count('carafe_plugin runs its plain PyTorch operators on cpu') == 1
        and 'removed by a test' in stderr
    )
    assert 'carafe_plugin' not in run_python(['-c', CALL.format(absent=False)], CARAFE_NATIVE='0').stderr


@needs_native
def test_layouts_reach_the_native_operator():
    """No layout is a reason for the slow path."""
    for layout in LAYOUTS:
        features, masks, _, _ = make_inputs((2, 4, 3, 5), 3, 1, 2, False, torch.bfloat16, layout)
        assert _native.operator('reassemble', features, masks) is ops.reassemble
