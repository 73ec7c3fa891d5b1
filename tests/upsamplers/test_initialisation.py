# SPDX-License-Identifier: Apache-2.0
"""The published initialisation of every parameter, written down a second time."""

import math

import pytest
import torch

from carafe_plugin.upsamplers import UPSAMPLERS, build_upsampler

# By layer: a number is the standard deviation of normal weights with zero biases, `xavier` uniform weights
# with zero biases, `torch` the default of PyTorch's layers, `identity` a norm's.
LAYERS = [
    (dict(type='nearest'), {}),
    (dict(type='bilinear'), {}),
    (dict(type='nearest_conv'), dict(conv='xavier')),
    (dict(type='bilinear_conv'), dict(conv='xavier')),
    (dict(type='deconv'), dict(deconv='xavier')),
    (dict(type='pixel_shuffle'), dict(upsample_conv='xavier')),
    (dict(type='gum'), {'offset.0': 'xavier', 'offset.2': 'xavier', 'offset.4': 0.001}),
    (dict(type='spatial_attention'), dict(attention='xavier')),
    (dict(type='carafe'), dict(channel_compressor='xavier', content_encoder=0.001)),
    (dict(type='carafe', compressed_channels=None), dict(content_encoder=0.001)),
    (dict(type='dysample', dyscope=True), dict(offset=0.001, scope=0.0)),
    (dict(type='dysample', style='pl', dyscope=True), dict(offset=0.001, scope=0.0)),
    *(
        (
            dict(type=name, gate=True),
            dict.fromkeys(('guide_compressor', 'channel_compressor', 'content_encoder', 'gate'), 'xavier'),
        )
        for name in ('fade', 'fade_lite')
    ),
    (
        dict(type='sapa', similarity='gated'),
        dict(guide_norm='identity', norm='identity', query=0.02, key=0.02, self_query=0.02, gate=0.02),
    ),
    (dict(type='sapa_deform'), dict(query=0.02, key=0.02, offset=0.02)),
    (
        dict(type='jbu'),
        {'range_proj.0': 'torch', 'range_proj.3': 'torch', 'fixup_proj.0': 'torch', 'fixup_proj.3': 'torch'},
    ),
    (dict(type='indexnet'), {'index.0': 'torch', 'index.1': 'identity', 'index.3': 'torch'}),
    (
        dict(type='a2u'),
        {'windows': 'torch', 'norms.0': 'identity', 'norms.1': 'identity', 'spread': 'torch'},
    ),
    (
        dict(type='freqfusion'),
        {
            'hr_channel_compressor': 'xavier',
            'lr_channel_compressor': 'xavier',
            'content_encoder': 0.001,
            'content_encoder2': 0.001,
            'dysampler.offset': 0.001,
            'dysampler.hr_offset': 0.001,
            'dysampler.direct_scale': 0.0,
            'dysampler.hr_direct_scale': 0.0,
            'dysampler.norm_hr': 'identity',
            'dysampler.norm_lr': 'identity',
        },
    ),
]


def check(weight, kind):
    """Compare the spread of a weight with what it should have, and uniform ones with their bound."""
    if kind == 'identity':
        assert (weight == 1).all()
        return
    area = weight[0, 0].numel()
    fan_in, fan_out = weight.shape[1] * area, weight.shape[0] * area
    bounds = dict(xavier=math.sqrt(6 / (fan_in + fan_out)), torch=1 / math.sqrt(fan_in))
    std = bounds[kind] / math.sqrt(3) if kind in bounds else kind
    assert weight.std(correction=0).item() == pytest.approx(std, rel=3.5 / math.sqrt(weight.numel()))
    if kind in bounds:
        assert 0.9 * bounds[kind] < weight.abs().max() <= bounds[kind]
    elif kind:
        assert weight.abs().max() > 2 * kind


@pytest.mark.parametrize('cfg, layers', LAYERS, ids=lambda cfg: '-'.join(map(str, cfg.values()))[:40])
def test_published_initialisation(cfg, layers):
    torch.manual_seed(0)
    up = build_upsampler(cfg, 64, guide_channels=64)
    seen = set()
    for name, module in up.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        if 'weight' not in parameters:  # JBU's two numbers, below
            continue
        seen.add(name)
        check(parameters['weight'].detach(), layers[name])
        if layers[name] != 'torch' and parameters.get('bias') is not None:
            assert not parameters['bias'].any(), name
    assert seen == set(layers)


def test_the_numbers_of_jbu():
    up = build_upsampler(dict(type='jbu'), 64, guide_channels=64)
    numbers = {name: p.item() for name, p in up.named_parameters(recurse=False)}
    assert numbers == dict(range_temp=0, sigma_spatial=1)


def test_no_upsampler_is_left_out():
    assert {cfg['type'] for cfg, _ in LAYERS} == set(UPSAMPLERS)
