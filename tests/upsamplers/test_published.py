# SPDX-License-Identifier: Apache-2.0
"""Weights of the released code load: the layouts are written down here from the authors' files."""

import pytest
import torch

from carafe_plugin.upsamplers import build_upsampler
from tests.upsamplers.cases import inputs

C = 32


def dysample(style='lp', groups=4, dyscope=False, scope_bias=False, channels=C, s=2):
    """dysample.py of tiny-smart/dysample; its earlier form has a bias in ``scope``."""
    wide, out = (channels, 2 * groups * s * s) if style == 'lp' else (channels // s**2, 2 * groups)
    state = {
        'offset.weight': (out, wide, 1, 1),
        'offset.bias': (out,),
        'init_pos': (1, 2 * groups * s * s, 1, 1),
    }
    if dyscope:
        state |= {'scope.weight': (out, wide, 1, 1)} | ({'scope.bias': (out,)} if scope_bias else {})
    return state


def freqfusion(feature_resample=True, compressed=64, groups=4):
    """FreqFusion.py of Linwei-Chen/FreqFusion."""
    state = {}
    for name, wide, out, k in (
        ('hr_channel_compressor', C, compressed, 1),
        ('lr_channel_compressor', C, compressed, 1),
        ('content_encoder', compressed, 25, 3),
        ('content_encoder2', compressed, 9, 3),
    ):
        state |= {f'{name}.weight': (out, wide, k, k), f'{name}.bias': (out,)}
    state |= {'hamming_lowpass': (1, 1, 5, 5), 'hamming_highpass': (1, 1, 3, 3)}
    if feature_resample:
        for name, out in (
            ('offset', 8 * groups),
            ('direct_scale', 8 * groups),
            ('hr_offset', 2 * groups),
            ('hr_direct_scale', 2 * groups),
        ):
            state |= {
                f'dysampler.{name}.weight': (out, compressed + 8, 3, 3),
                f'dysampler.{name}.bias': (out,),
            }
        for name in ('norm_hr', 'norm_lr'):
            state |= {f'dysampler.{name}.weight': (compressed,), f'dysampler.{name}.bias': (compressed,)}
        state['dysampler.init_pos'] = (1, 8 * groups, 1, 1)
    return state


def fade(gate=False, lite=False):
    """FADE_L2H.py of poppinace/fade."""
    d = 25 if lite else 64
    state = {
        'ker_generator.compressor_en.weight': (d, C, 1, 1),
        'ker_generator.compressor_en.bias': (d,),
        'ker_generator.compressor_de.weight': (d, C, 1, 1),
        'ker_generator.content_encoder.weight': (25, 1 if lite else d, 3, 3),
        'ker_generator.content_encoder.bias': (25,),
    }
    if gate:
        state |= {'gate_generator.conv.weight': (1, C, 1, 1), 'gate_generator.conv.bias': (1,)}
    return state


FADE_H2L = {  # FADE_H2L.py, which has the gate always
    'gate_generator.conv.weight': (1, C, 1, 1),
    'gate_generator.conv.bias': (1,),
    'kernel_generator.conv2_kernels': (25, 64, 3, 3),
    'kernel_generator.conv2_bias': (25,),
    'kernel_generator.conv1_en.weight': (64, C, 1, 1),
    'kernel_generator.conv1_en.bias': (64,),
    'kernel_generator.conv1_de.weight': (64, C, 1, 1),
}
SAPA = {  # sapa_base.py of tiny-smart/sapa
    **{f'norm_{i}.{name}': (C,) for i in 'yx' for name in ('weight', 'bias')},
    **{f'{i}.weight': (32, C, 1, 1) for i in 'qk'},
    **{f'{i}.bias': (32,) for i in 'qk'},
}
SAPA_DEFORM = {  # sapa_deform.py
    **{f'{i}.weight': (128, C, 1, 1) for i in 'qk'},
    **{f'{i}.bias': (128,) for i in 'qk'},
    'offset.weight': (288, C, 1, 1),
    'offset.bias': (288,),
}
INDEXNET = {  # HolisticIndexBlock of poppinace/indexnet_matting
    'indexnet.0.weight': (2 * C, C, 4, 4),
    **{f'indexnet.1.{name}': (2 * C,) for name in ('weight', 'bias', 'running_mean', 'running_var')},
    'indexnet.1.num_batches_tracked': (),
    'indexnet.3.weight': (4, 2 * C, 1, 1),
}
A2U = {  # A2UUpRaw of tiny-smart/detection-with-upsamplers
    **{f'kernel_gen.bn{i}.0.{name}': (C,) for i in 'uv' for name in ('weight', 'bias')},
    **{f'kernel_gen.bconv_{i}.1.weight': (36, C, 1, 1) for i in ('UP', 'DP')},
    **{f'kernel_gen.bconv_{i}.1.bias': (36,) for i in ('UP', 'DP')},
    **{f'kernel_gen.bconv_{i}.1.weight': (1, C, 1, 1) for i in 'UV'},
    **{f'kernel_gen.bconv_{i}.1.bias': (1,) for i in 'UV'},
}
DECONV = {'weight': (C, C, 3, 3), 'bias': (C,)}  # the bare layer in mmdet's FPN_CARAFE
PIXEL_SHUFFLE = {'0.weight': (4 * C, C, 3, 3), '0.bias': (4 * C,)}  # segmentation-with-upsamplers

# What is released, the config that takes it, and some keys with the names that they get.
RELEASED = {
    'dysample': (dysample(), dict(type='dysample'), {'offset.weight': 'offset.weight'}),
    'dysample+': (
        dysample(dyscope=True),
        dict(type='dysample', dyscope=True),
        {'scope.weight': 'scope.weight'},
    ),
    'dysample+, bias': (
        dysample(dyscope=True, scope_bias=True),
        dict(type='dysample', dyscope=True, scope_bias=True),
        {'scope.bias': 'scope.bias'},
    ),
    'dysample-s': (
        dysample('pl'),
        dict(type='dysample', style='pl', groups=4),
        {'offset.bias': 'offset.bias'},
    ),
    'freqfusion': (
        freqfusion(),
        dict(type='freqfusion'),
        {'dysampler.hr_offset.weight': 'dysampler.hr_offset.weight'},
    ),
    'freqfusion-plain': (
        freqfusion(False),
        dict(type='freqfusion', feature_resample=False),
        {'content_encoder2.bias': 'content_encoder2.bias'},
    ),
    'fade': (fade(), dict(type='fade'), {'ker_generator.compressor_en.weight': 'guide_compressor.weight'}),
    'fade-gate': (fade(True), dict(type='fade', gate=True), {'gate_generator.conv.bias': 'gate.bias'}),
    'fade_lite-gate': (
        fade(True, lite=True),
        dict(type='fade_lite', gate=True),
        {'ker_generator.compressor_de.weight': 'channel_compressor.weight'},
    ),
    'fade, H2L': (
        FADE_H2L,
        dict(type='fade', gate=True),
        {
            'kernel_generator.conv1_en.bias': 'guide_compressor.bias',
            'kernel_generator.conv1_de.weight': 'channel_compressor.weight',
            'kernel_generator.conv2_kernels': 'content_encoder.weight',
        },
    ),
    'sapa': (
        SAPA,
        dict(type='sapa'),
        {
            'norm_y.bias': 'guide_norm.bias',
            'norm_x.bias': 'norm.bias',
            'q.weight': 'query.weight',
            'k.weight': 'key.weight',
        },
    ),
    'sapa_deform': (
        SAPA_DEFORM,
        dict(type='sapa_deform'),
        {'q.weight': 'query.weight', 'k.bias': 'key.bias'},
    ),
    'indexnet': (INDEXNET, dict(type='indexnet'), {'indexnet.3.weight': 'index.3.weight'}),
    'a2u': (
        A2U,
        dict(type='a2u'),
        {'kernel_gen.bnv.0.weight': 'norms.1.weight', 'kernel_gen.bconv_UP.1.weight': 'spread.weight'},
    ),
    'deconv': (DECONV, dict(type='deconv'), {'weight': 'deconv.weight'}),
    'pixel_shuffle': (PIXEL_SHUFFLE, dict(type='pixel_shuffle'), {'0.bias': 'upsample_conv.bias'}),
}


def released(layout, seed=0):
    """A state dict of a layout: random weights, and buffers as the released code makes them."""
    rng = torch.Generator().manual_seed(seed)
    state = {key: torch.randn(shape, generator=rng) for key, shape in layout.items()}
    for key in state:
        if key.endswith(('hamming_lowpass', 'hamming_highpass')):
            window = torch.hamming_window(layout[key][-1], periodic=False)
            state[key] = (window[:, None] * window)[None, None]
        elif key.endswith('num_batches_tracked'):
            state[key] = torch.tensor(7)
        elif key.endswith('running_var'):
            state[key] = state[key].square() + 0.1
    return state


def build(cfg):
    return build_upsampler(cfg, C, guide_channels=C)


@pytest.mark.parametrize('case', RELEASED)
def test_released_weights_load_strictly(case):
    layout, cfg, names = RELEASED[case]
    theirs, up = released(layout), build(cfg)
    before = dict(theirs)
    up.load_state_dict(theirs, strict=True)
    assert theirs.keys() == before.keys()
    ours = up.state_dict()
    for there, here in names.items():
        assert torch.equal(ours[here], theirs[there]), there
    second = build(cfg)
    second.load_state_dict(ours, strict=True)  # what is saved here has the names of here
    args = inputs(up.eval())
    assert torch.equal(up(*args), second.eval()(*args))


def test_the_two_windows_of_a2u_keep_their_order():
    theirs, up = released(A2U), build(dict(type='a2u'))
    up.load_state_dict(theirs)
    for index, part in enumerate('UV'):
        assert torch.equal(up.windows.weight[index : index + 1], theirs[f'kernel_gen.bconv_{part}.1.weight'])


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize(
    'layout, cfg, match',
    [
        (dysample('pl'), dict(type='dysample', style='pl'), r'DySample: set groups=4 in upsample_cfg'),
        (dysample('pl'), dict(type='dysample'), "set style='pl' in"),
        (dysample(), dict(type='dysample', style='pl'), "set style='lp', groups=4 in"),
        (dysample(dyscope=True), dict(type='dysample'), 'set dyscope=True in'),
        (dysample(), dict(type='dysample', dyscope=True), 'set dyscope=False in'),
        (
            dysample(dyscope=True, scope_bias=True),
            dict(type='dysample', dyscope=True),
            'set scope_bias=True in',
        ),
        (
            dysample(channels=64),
            dict(type='dysample'),
            r'offset.weight is \(32, 64, 1, 1\) there and \(32, 32',
        ),
        (fade(True), dict(type='fade'), 'FADE: set gate=True'),
        (fade(), dict(type='fade', gate=True), 'FADE: set gate=False'),
        (freqfusion(False), dict(type='freqfusion'), 'set feature_resample=False'),
        (freqfusion(), dict(type='freqfusion', feature_resample=False), 'set feature_resample=True'),
        (freqfusion(groups=8), dict(type='freqfusion'), r'dysampler.* \(64,.* there and \(32,.* here'),
        (freqfusion() | {'hamming_lowpass': (1,)}, dict(type='freqfusion'), 'another window'),
        (
            SAPA | {'q.weight': (64, C)},
            dict(type='sapa'),
            r'query.weight is \(64, 32\) there and \(32, 32, 1, 1\)',
        ),
        (SAPA, dict(type='sapa', similarity='inner'), r'key.bias is \(32,\) there and missing here'),
    ],
)
def test_weights_of_other_arguments_are_refused(layout, cfg, match, strict):
    """Also by a load that is not strict, as mmengine's is, which would keep the random weights."""
    with pytest.raises(ValueError, match=match):
        build(cfg).load_state_dict(released(layout), strict=strict)


def test_weights_under_the_names_of_here_are_loaded_as_ever():
    up, other = build(dict(type='fade')), build(dict(type='fade', gate=True))
    assert up.load_state_dict(other.state_dict(), strict=False).unexpected_keys == [
        'gate.weight',
        'gate.bias',
    ]
    with pytest.raises(RuntimeError, match='Unexpected key'):
        up.load_state_dict(other.state_dict())


def test_featup_has_scalars():
    """FSDP2 takes none, so they have one entry here."""
    theirs = {key: value.clone() for key, value in build(dict(type='jbu')).state_dict().items()}
    theirs |= dict(range_temp=torch.tensor(0.3), sigma_spatial=torch.tensor(1.7))
    up = build(dict(type='jbu'))
    up.load_state_dict(theirs, strict=True)
    assert (up.range_temp.item(), up.sigma_spatial.item()) == pytest.approx((0.3, 1.7))
    assert theirs['range_temp'].shape == ()
