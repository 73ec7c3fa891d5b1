# SPDX-License-Identifier: Apache-2.0
"""Every downsampler keeps the call contract; each is checked against an independent form."""

import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.downsamplers import DOWNSAMPLERS, build_downsampler
from tests import reference
from tests.ops.test_export import EXPORTER_NOISE, assert_onnx_equal, to_onnx
from tests.tolerances import LAYERS, within
from tests.torch_versions import FLOAT16, needs_compile, needs_export

NAMES = list(DOWNSAMPLERS)


def test_names():
    assert NAMES == ['avg_pool', 'carafe', 'max_pool', 'strided_conv']


@pytest.mark.parametrize('s', [1, 2, 3])
@pytest.mark.parametrize('name', NAMES)
def test_contract(name, s):
    """Sizes rounded up, layouts, dtypes, gradients in all parameters; an empty batch gives zero ones."""
    torch.manual_seed(0)
    down = build_downsampler(dict(type=name), 8, s)
    for size in [(6, 9), (7, 8), (1, 5)]:
        assert down(torch.rand(2, 8, *size)).shape == (2, 8, *(-(-n // s) for n in size))
    x = torch.rand(2, 8, 7, 9, requires_grad=True)
    output = down(x)
    torch.testing.assert_close(down(x.contiguous(memory_format=torch.channels_last)), output)
    with torch.autocast('cpu', torch.bfloat16):
        cast = down(x.bfloat16()).float()
    torch.testing.assert_close(cast, output, **within(LAYERS[torch.bfloat16], output))
    output.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in (x, *down.parameters()))
    down.zero_grad()
    down(torch.rand(0, 8, 5, 7, requires_grad=True)).sum().backward()
    assert not any(p.grad.any() for p in down.parameters())


@pytest.mark.parametrize('dtype', [torch.float64, FLOAT16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('s', [1, 2, 3])
@pytest.mark.parametrize('name', NAMES)
def test_dtypes(name, s, dtype):
    x = torch.rand(2, 8, 7, 9, dtype=dtype)
    assert build_downsampler(dict(type=name), 8, s).to(dtype)(x).dtype == dtype


@needs_compile
@pytest.mark.parametrize('name', NAMES)
def test_compiles_without_graph_breaks(name):
    down, x = build_downsampler(dict(type=name), 8), torch.rand(2, 8, 7, 9, requires_grad=True)
    compiled = torch.compile(down, backend='aot_eager', fullgraph=True)(x)
    torch.testing.assert_close(compiled, down(x))
    compiled.sum().backward()
    assert x.grad.any()


@needs_export
@EXPORTER_NOISE
@pytest.mark.parametrize('dynamo', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_onnx(dynamo):
    down = build_downsampler(dict(type='carafe'), 8).eval()
    torch.nn.init.normal_(down.content_encoder.weight, std=0.3)
    proto = to_onnx(down, (torch.rand(2, 8, 6, 7),), dynamo)
    calls = (torch.rand(3, 8, 9, 5),), (torch.rand(1, 8, 4, 10),)
    assert_onnx_equal(proto, down, *calls, tolerance=LAYERS[torch.float32])


@pytest.mark.parametrize('s', [1, 2, 3])
def test_carafe(s):
    down = build_downsampler(
        dict(type='carafe', down_kernel=3, down_group=2, encoder_kernel=5, compressed_channels=3), 4, s
    ).double()
    for p in down.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    compressed = F.conv2d(x, *down.channel_compressor.parameters())
    logits = F.conv2d(compressed, *down.content_encoder.parameters(), stride=s, padding=2)
    masks = reference.softmax(logits.detach().numpy(), 3, 2)
    expected = torch.tensor(reference.reassemble(x.numpy(), masks, 3, 2, s, down=True))
    torch.testing.assert_close(down(x).detach(), expected)


def test_baselines_against_loops():
    x = torch.rand(1, 2, 5, 4, dtype=torch.float64)
    block = {name: build_downsampler(dict(type=name), 2).double()(x)[0, 1, 2] for name in NAMES}
    assert torch.equal(block['max_pool'], torch.stack([x[0, 1, 3:, :2].max(), x[0, 1, 3:, 1:].max()]))
    torch.testing.assert_close(block['avg_pool'], x[0, 1, 4].reshape(2, 2).mean(1))
    conv = build_downsampler(dict(type='strided_conv'), 2).double()
    full = F.conv2d(x, *conv.conv.parameters(), padding=1)
    torch.testing.assert_close(conv(x), full[..., ::2, ::2])


@pytest.mark.parametrize('channels, total', [(64, 4_665), (128, 5_689), (256, 7_737), (512, 11_833)])
def test_derived_counts_of_carafe(channels, total):
    parameters = build_downsampler(dict(type='carafe'), channels).parameters()
    assert sum(p.numel() for p in parameters) == total


@pytest.mark.parametrize('name', ['carafe', 'strided_conv'])
def test_init_weights_leaves_nothing_of_what_a_host_did(name):
    down, seen = build_downsampler(dict(type=name), 8), []
    for value in (7.0, -7.0):
        for p in down.parameters():
            torch.nn.init.constant_(p, value)
        torch.manual_seed(3)
        down.init_weights()
        seen.append([p.detach().clone() for p in down.parameters()])
    torch.testing.assert_close(*seen, rtol=0, atol=0)


@pytest.mark.parametrize(
    'error, match, cfg',
    [
        (TypeError, 'downsample_cfg must be a dict', 'carafe'),
        (ValueError, 'downsample_cfg must name its type', dict(down_kernel=5)),
        (ValueError, "unknown downsampler 'pool'; known: avg_pool, carafe, max_pool", dict(type='pool')),
        (TypeError, "takes no argument 'up_kernel'.*down_kernel.*", dict(type='carafe', up_kernel=5)),
        (TypeError, "takes no argument 'scale_factor'", dict(type='max_pool', scale_factor=2)),
        (ValueError, 'divisible by down_group=3, got 8', dict(type='carafe', down_group=3)),
        (ValueError, 'down_kernel must be odd, got 4', dict(type='carafe', down_kernel=4)),
        (ValueError, 'kernel_size must be odd, got 2', dict(type='max_pool', kernel_size=2)),
    ],
)
def test_bad_configs(error, match, cfg):
    with pytest.raises(error, match=match):
        build_downsampler(cfg, 8)
