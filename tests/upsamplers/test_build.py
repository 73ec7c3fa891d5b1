# SPDX-License-Identifier: Apache-2.0
"""What an ``upsample_cfg`` may say, and what is answered where it says something else."""

import pytest

from carafe_plugin.upsamplers import CARAFE, UPSAMPLERS, GuidedUpsampler, build_upsampler


class Guided(GuidedUpsampler):
    """A user's own guided upsampler."""


@pytest.mark.parametrize(
    'error, match, cfg',
    [
        (TypeError, 'upsample_cfg must be a dict', 'carafe'),
        (ValueError, r"must name its type, got \{'up_kernel': 5\}", dict(up_kernel=5)),
        (ValueError, "unknown upsampler 'caraf'; known: .*bilinear.*carafe", dict(type='caraf')),
        (
            TypeError,
            "'deconv' takes no argument 'up_kernel'; it takes .*kernel_size.*_delete_",
            dict(type='deconv', up_kernel=5),
        ),
        (ValueError, 'asks for scale_factor=3, this place', dict(type='carafe', scale_factor=3)),
        (TypeError, "scale_factor must be an int, got '2'", dict(type='carafe', scale_factor='2')),
        (TypeError, 'scale_factor must be an int, got 2.0', dict(type='carafe', scale_factor=2.0)),
        (TypeError, 'scale_factor must be an int, got True', dict(type='nearest', scale_factor=True)),
        (TypeError, 'scale_factor must be an int, got None', dict(type='carafe', scale_factor=None)),
        (ValueError, "unknown upsampler 'carafe_plugin.CARAFFE'", dict(type='carafe_plugin.CARAFFE')),
        (ValueError, "unknown upsampler 'no_module.CARAFE'", dict(type='no_module.CARAFE')),
        (ValueError, "unknown upsampler 'math.pi'", dict(type='math.pi')),
        (
            ValueError,
            'in_channels must be divisible by up_group=3, got 8',
            dict(type='carafe', up_group=3),
        ),
        (ValueError, 'up_group must be at least 1, got 0', dict(type='carafe', up_group=0)),
        (ValueError, 'up_kernel must be odd, got 4', dict(type='carafe', up_kernel=4)),
        (TypeError, 'compressed_channels must be an int', dict(type='carafe', compressed_channels='64')),
        (
            ValueError,
            "normalizer must be one of softmax, sigmoid, sigmoid_normalized, got 'relu'",
            dict(type='carafe', normalizer='relu'),
        ),
        (ValueError, 'at least scale_factor=2, got 1', dict(type='deconv', kernel_size=1)),
        (ValueError, 'kernel_size must be odd, got 2', dict(type='nearest_conv', kernel_size=2)),
        (ValueError, "style must be one of lp, pl, got 'pp'", dict(type='dysample', style='pp')),
        (ValueError, 'divisible by groups=3, got 8', dict(type='dysample', groups=3)),
        (TypeError, 'groups must be an int', dict(type='dysample', groups=2.0)),
        (
            ValueError,
            "similarity must be one of inner, bilinear, gated, got 'dot'",
            dict(type='sapa', similarity='dot'),
        ),
        (ValueError, 'in_channels must be divisible by groups=3, got 8', dict(type='sapa_deform', groups=3)),
        (ValueError, r'dropout must be in \[0, 1\), got 1', dict(type='jbu', dropout=1)),
        (ValueError, 'radius must be at least 1, got 0', dict(type='jbu', radius=0)),
        (
            ValueError,
            'in_channels must be divisible by feature_resample_group=3, got 8',
            dict(type='freqfusion', feature_resample_group=3),
        ),
        (
            ValueError,
            'compressed_channels must be divisible by .*=8, got 12',
            dict(type='freqfusion', compressed_channels=12),
        ),
        (ValueError, 'Guided.* needs a guide', dict(type=Guided)),
    ],
)
def test_bad_configs(error, match, cfg):
    with pytest.raises(error, match=match):
        build_upsampler(cfg, 8, guide_channels=None if cfg == dict(type=Guided) else 8)


@pytest.mark.parametrize(
    'match, cfg, guide_channels',
    [
        (
            'gate=True mixes the maps, so guide_channels must be in_channels=8, got 16',
            dict(type='fade', gate=True),
            16,
        ),
        (
            "similarity='inner' compares the maps, so guide_channels must be in_channels=8, got 16",
            dict(type='sapa', similarity='inner'),
            16,
        ),
        ('guide_channels must be at least 1, got 0', dict(type='fade'), 0),
    ],
)
def test_bad_guide_channels(match, cfg, guide_channels):
    with pytest.raises(ValueError, match=match):
        build_upsampler(cfg, 8, guide_channels=guide_channels)


def test_channels_that_a_factor_does_not_divide():
    with pytest.raises(ValueError, match=r'divisible by scale_factor\*\*2=9, got 8'):
        build_upsampler(dict(type='dysample', style='pl'), 8, 3)


@pytest.mark.parametrize('value, error', [(0, ValueError), (2.0, TypeError), ('2', TypeError)])
def test_bad_scale_factor(value, error):
    with pytest.raises(error, match='scale_factor must be'):
        build_upsampler(dict(type='nearest'), 8, value)


def test_a_class_and_its_guide_pass_through():
    up = build_upsampler(dict(type=Guided), 8, guide_channels=16)
    assert (up.in_channels, up.scale_factor, up.guide_channels) == (8, 2, 16)
    assert Guided(8).guide_channels == 8


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'carafe' is already registered"):
        UPSAMPLERS.register_module('carafe')(Guided)


def test_a_cell_of_a_notebook_runs_again():
    try:
        for _ in range(2):

            @UPSAMPLERS.register_module('again', force=True)
            class Again(Guided):
                pass

            assert UPSAMPLERS.get('again') is Again
    finally:
        UPSAMPLERS._classes.pop('again', None)


@pytest.mark.parametrize('name', [f'{CARAFE.__module__}.CARAFE', 'carafe_plugin.upsamplers.CARAFE'])
def test_a_dotted_path_names_a_class(name):
    """mmengine writes one where a config had the class itself."""
    up = build_upsampler(dict(type=name, up_kernel=3), 8)
    assert type(up) is CARAFE and up.up_kernel == 3
    assert type(build_upsampler(dict(type=f'{__name__}.Guided'), 8, guide_channels=8)).__name__ == 'Guided'


def test_mmcv_weights_load():
    ours = build_upsampler(dict(type='carafe'), 16)
    theirs = pytest.importorskip('mmcv.ops').CARAFEPack(16, 2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
