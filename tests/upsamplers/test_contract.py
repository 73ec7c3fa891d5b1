# SPDX-License-Identifier: Apache-2.0
"""What every upsampler owes its hosts, whatever it computes."""

import numpy as np
import pytest
import torch

from carafe_plugin.upsamplers import UPSAMPLERS, build_upsampler
from carafe_plugin.upsamplers.group_norm import GroupNorm
from tests.tolerances import LAYERS
from tests.torch_versions import FLOAT16, needs_compile, needs_float16
from tests.upsamplers.cases import CASES, CHANNELS, FACTORS, build, inputs, leaves

GUIDED = [name for name in UPSAMPLERS if UPSAMPLERS.get(name).needs_guide]
every_case = pytest.mark.parametrize('case', CASES)


@every_case
@pytest.mark.parametrize('scale_factor', [1, 2, 3])
def test_sizes_and_gradients(case, scale_factor):
    """Every leaf gets a finite gradient that is not all zero."""
    if scale_factor not in FACTORS.get(CASES[case]['type'], (1, 2, 3)):
        with pytest.raises(ValueError, match=f'scale_factor=2 only, got {scale_factor}'):
            build(case, scale_factor=scale_factor)
        return
    channels = 18 if case.startswith('dysample-s') and scale_factor == 3 else CHANNELS
    up = build(case, channels, scale_factor)
    x, guide = inputs(up)
    output = up(x, guide)
    assert output.shape == (2, channels, 5 * scale_factor, 6 * scale_factor)
    (output * torch.randn_like(output)).sum().backward()
    for name, leaf in leaves(up, x, guide).items():
        assert leaf.grad.isfinite().all() and leaf.grad.any(), name


@every_case
@pytest.mark.parametrize('batch', [0, 2])
def test_odd_sizes_and_empty_batches_fuse(case, batch):
    """The result has the guide's size; an empty batch leaves zero gradients, not missing ones."""
    up = build(case)
    for size in [(9, 11), (11, 13), (9, 12)]:
        x, _ = inputs(up, batch)
        guide = torch.randn(batch, CHANNELS, *size, requires_grad=True)
        output = up.fuse(x, guide)
        assert output.shape == guide.shape
        up.zero_grad()
        output.sum().backward()
        grads = {name: leaf.grad for name, leaf in leaves(up, x, guide).items()}
        assert not [name for name, grad in grads.items() if grad is None]
        assert all(grad.isfinite().all() for grad in grads.values())
        assert batch or not any(grad.any() for grad in grads.values())


@every_case
def test_layouts(case):
    up = build(case)
    x, guide = inputs(up)
    expected = up(x, guide)
    to_last = [
        t if t is None else t.detach().contiguous(memory_format=torch.channels_last) for t in (x, guide)
    ]
    torch.testing.assert_close(up(*to_last), expected)


@every_case
@pytest.mark.parametrize('dtype', [torch.float64, FLOAT16, torch.bfloat16], ids=str)
def test_dtypes(case, dtype):
    """The output has the dtype of the features, and the values of the float64 result within its precision."""
    up = build(case).to(dtype)
    x, guide = inputs(up, dtype=dtype)
    output = up(x, guide)
    output.double().square().sum().backward()
    assert output.dtype == dtype
    for name, leaf in leaves(up, x, guide).items():
        assert leaf.grad.dtype == dtype and leaf.grad.isfinite().all(), name
    exact = up.double()(*[t if t is None else t.double() for t in (x, guide)])
    assert (output.double() - exact).norm() < LAYERS[dtype] * exact.norm()


@every_case
@pytest.mark.parametrize(
    'dtype, to',
    [
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        pytest.param(torch.float32, torch.float16, marks=needs_float16),
    ],
    ids=str,
)
def test_autocast(case, dtype, to):
    up = build(case)
    x, guide = inputs(up)
    expected = up(x, guide)
    cast = [t if t is None else t.detach().to(dtype) for t in (x, guide)]
    with torch.autocast('cpu', to):
        output = up(*cast)
    if leaves(up, *cast).keys() - {'x', 'guide'}:
        output.float().square().sum().backward()
    assert (output.float() - expected).norm() < LAYERS[to] * expected.norm()
    assert all(p.grad.isfinite().all() for p in up.parameters())


def compiles(case, backend):
    up = build(case)
    x, guide = inputs(up)
    targets = list(leaves(up, x, guide).values())

    def call(x, guide):
        return up.fuse(x, guide) if up.needs_guide else up(x)

    def with_gradients(function):
        output = function(x, guide)
        return output, *torch.autograd.grad(output.square().sum(), targets)

    expected = with_gradients(call)
    torch._dynamo.reset()
    compiled = with_gradients(torch.compile(call, backend=backend, fullgraph=True))
    tolerance = LAYERS[torch.float32]
    torch.testing.assert_close(compiled, expected, rtol=tolerance, atol=tolerance)


@every_case
@needs_compile
def test_compiles_without_graph_breaks(case):
    compiles(case, 'aot_eager')


@pytest.mark.slow
@needs_compile
@pytest.mark.parametrize('name', list(UPSAMPLERS))
def test_compiles_by_inductor(name):
    compiles(name, 'inductor')


@every_case
@pytest.mark.parametrize('channels', [8, 32])
@pytest.mark.parametrize('size', [(1, 1), (1, 2)])
def test_one_image_of_one_pixel_in_evaluation(case, channels, size):
    """Where a group of a norm has a single value, as everywhere else."""
    up = build(case, channels).eval()
    x, guide = inputs(up, 1, size)
    twice = [t if t is None else t.expand(2, -1, -1, -1) for t in (x, guide)]
    torch.testing.assert_close(up(x, guide), up(*twice)[:1])


@pytest.mark.parametrize('training', [True, False])
def test_group_norm_of_one_value(training):
    """That value less its mean is 0, which leaves the bias; elsewhere it is torch's own."""
    norm = GroupNorm(8).train(training)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x = torch.randn(1, 8, 1, 1, requires_grad=True)
    output = norm(x)
    torch.testing.assert_close(output, norm.bias.view(1, 8, 1, 1), rtol=0, atol=1e-3)
    output.sum().backward()
    assert x.grad.abs().max() < 1e-3 and norm.bias.grad.eq(1).all()
    stock = torch.nn.GroupNorm(32, 64)
    x = torch.randn(2, 64, 3, 5)
    assert torch.equal(GroupNorm(64)(x), stock(x))


@every_case
def test_numpy_integers_are_integers(case):
    cfg, eight = CASES[case], np.int64(8)
    up = build_upsampler(cfg, eight, np.int64(2), guide_channels=eight)
    assert type(up.in_channels) is int and type(up.scale_factor) is int
    assert up(*inputs(up)).shape == (2, 8, 10, 12)


@every_case
def test_state_dict_round_trip(case):
    first, second = build(case), build(case, seed=5)
    second.load_state_dict(first.state_dict(), strict=True)
    args = inputs(first)
    assert torch.equal(first.eval()(*args), second.eval()(*args))


@every_case
def test_init_weights_leaves_nothing_of_what_a_host_did(case):
    up, seen = build(case), []
    constructed = {name: p.std(correction=0).item() for name, p in up.named_parameters()}
    for value in (7.0, -7.0):
        for p in up.parameters():
            torch.nn.init.constant_(p, value)
        torch.manual_seed(3)
        up.init_weights()
        seen.append({name: p.detach().clone() for name, p in up.named_parameters()})
    torch.testing.assert_close(*seen, rtol=0, atol=0)
    for name, p in up.named_parameters():
        assert p.std(correction=0).item() == pytest.approx(constructed[name], rel=0.7), name


@pytest.mark.parametrize('name', GUIDED)
def test_bad_guides(name):
    up = build_upsampler(dict(type=name), 8, guide_channels=16)
    x = torch.rand(2, 8, 4, 4)
    for guide, match in [
        (None, r'needs a guide, a finer map: call it as upsampler\(x, guide\)'),
        (torch.rand(2, 8, 8, 8), r'guide must have shape \(N, 16, H, W\), got \(2, 8, 8, 8\)'),
        (
            torch.rand(2, 16, 8, 10),
            r'must have about 2 times the size of x.*\(2, 16, 8, 8\), got \(2, 16, 8, 10\)',
        ),
        (torch.rand(2, 16, 4, 4), 'must have about 2 times the size of x'),
        (torch.rand(1, 16, 8, 8), 'must have about 2 times the size of x'),
    ]:
        with pytest.raises(ValueError, match=match):
            up(x, guide)
    with pytest.raises(ValueError, match=r'x must have shape \(N, 8, H, W\), got \(2, 4, 4, 4\)'):
        up(x[:, :4], torch.rand(2, 16, 8, 8))
    with pytest.raises(ValueError, match=r'guide must have shape \(N, 8, H, W\), got \(2, 16, 8, 8\)'):
        up.fuse(x, torch.rand(2, 16, 8, 8))


@pytest.mark.parametrize('name', GUIDED)
def test_a_host_without_a_guide_is_told_so(name):
    with pytest.raises(ValueError, match=f"'{name}' needs a guide .*carafe"):
        build_upsampler(dict(type=name), 8)
