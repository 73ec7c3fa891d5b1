# SPDX-License-Identifier: Apache-2.0
"""torch.func over the operators, held to autograd over their plain form."""

import contextlib

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import carafe_plugin
from carafe_plugin.ops import _native
from tests.ops.test_export import FUNCTIONS, Operator, operator_inputs
from tests.tolerances import LAYERS, within
from tests.torch_versions import needs_compile

INTEGERS = (3, 2, 2)
every_function = pytest.mark.parametrize(
    'name', [pytest.param(n, marks=[] if n == 'carafe_softmax' else pytest.mark.slow) for n in FUNCTIONS]
)


def setup(name, images=2):
    torch.manual_seed(0)
    inputs = tuple(x.double() for x in operator_inputs(name, images, 4, 3, 5, *INTEGERS))
    function = Operator(name, *INTEGERS)

    def loss(*args):
        return function(*args).sin().sum()

    return function, loss, inputs


def gradients(function, inputs):
    """By plain PyTorch's autograd."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with carafe_plugin.plain_operators():
        return torch.autograd.grad(function(*leaves), leaves)


def each_image(inputs):
    return [x[:, None] for x in inputs]


@every_function
def test_reverse_mode(name):
    function, loss, inputs = setup(name)
    expected = gradients(loss, inputs)
    torch.testing.assert_close(torch.func.grad(loss, argnums=(0, 1))(*inputs), expected)
    value = torch.func.grad_and_value(loss, argnums=(0, 1))(*inputs)
    torch.testing.assert_close(value, (expected, loss(*inputs)))
    output, pull_back = torch.func.vjp(function, *inputs)
    torch.testing.assert_close(output, function(*inputs))
    torch.testing.assert_close(pull_back(output.cos()), expected)
    torch.testing.assert_close(torch.func.jacrev(loss, argnums=(0, 1))(*inputs), expected)


@pytest.mark.slow
@pytest.mark.parametrize('name', FUNCTIONS)
def test_forward_mode_by_func(name):
    function, loss, inputs = setup(name)
    torch.testing.assert_close(torch.func.jacfwd(loss, argnums=1)(*inputs), gradients(loss, inputs)[1])
    output, push = torch.func.linearize(function, *inputs)
    torch.testing.assert_close(output, function(*inputs))
    torch.testing.assert_close(push(*inputs), torch.func.jvp(function, inputs, inputs)[1])


@every_function
def test_with_vmap(name):
    """A gradient for each image, and the gradient of a mapped function."""
    function, loss, inputs = setup(name)
    expected = gradients(loss, inputs)
    mapped = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(*each_image(inputs))
    torch.testing.assert_close([x[:, 0] for x in mapped], list(expected))

    def mapped_loss(*args):
        return torch.func.vmap(function)(*args).sin().sum()

    outside = torch.func.grad(mapped_loss, argnums=(0, 1))(*each_image(inputs))
    torch.testing.assert_close([x[:, 0] for x in outside], list(expected))
    torch.testing.assert_close(torch.func.vmap(function)(*each_image(inputs))[:, 0], function(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize('name', FUNCTIONS)
def test_second_order(name):
    _, loss, inputs = setup(name, images=1)
    with carafe_plugin.plain_operators():
        expected = torch.autograd.functional.hessian(loss, inputs)[1][1]
    torch.testing.assert_close(torch.func.hessian(loss, argnums=1)(*inputs), expected)
    torch.testing.assert_close(
        torch.func.jacrev(torch.func.grad(loss, argnums=1), argnums=1)(*inputs), expected
    )


def test_other_transforms():
    function, loss, inputs = setup('carafe')
    torch.testing.assert_close(torch.func.functionalize(function)(*inputs), function(*inputs))
    traced = make_fx(torch.func.grad(loss))(*inputs)
    torch.testing.assert_close(traced(*inputs), gradients(loss, inputs)[0])


@pytest.mark.slow
@needs_compile
def test_compiled():
    """And the graph outside of a transform still holds the native operator."""
    function, loss, inputs = setup('carafe')
    torch._dynamo.reset()
    compiled = torch.compile(torch.func.grad(loss), backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), gradients(loss, inputs)[0])
    graphs = []

    def backend(graph, _):
        graphs.append(graph.code)
        return graph

    torch.compile(function, backend=backend, fullgraph=True)(*inputs)
    assert ('carafe_plugin.reassemble' in graphs[0]) == ('cpu' in _native.loaded)


def test_parameters_of_a_module():
    """functional_call, as in per-sample gradients and in ensembles."""
    torch.manual_seed(0)
    module = carafe_plugin.build_upsampler(dict(type='carafe', compressed_channels=4), 8)
    x = torch.randn(3, 8, 4, 5)

    def loss(parameters, image):
        return torch.func.functional_call(module, parameters, (image[None],)).square().sum()

    parameters = {name: p.detach() for name, p in module.named_parameters()}
    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    module(x).square().sum().backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(mapped[name].sum(0), p.grad, **within(LAYERS[torch.float32], p.grad))


@pytest.mark.skipif('cpu' not in _native.loaded, reason=f'no native library: {_native.why_not("cpu")}')
def test_plain_operators():
    function, _, inputs = setup('carafe')

    def ran_native():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            outputs.append(function(*inputs))
        return any(event.key.startswith('carafe_plugin::') for event in profile.key_averages())

    outputs = []
    assert ran_native()
    with carafe_plugin.plain_operators():
        assert not ran_native()
        with carafe_plugin.plain_operators():
            assert not ran_native()
        assert not ran_native()
    with contextlib.suppress(KeyError), carafe_plugin.plain_operators():
        raise KeyError
    assert ran_native()
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0])
