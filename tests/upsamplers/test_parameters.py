# SPDX-License-Identifier: Apache-2.0
"""Parameter counts at 256 channels, held to the published ones."""

import pytest

from carafe_plugin.upsamplers import UPSAMPLERS, build_upsampler

# Arguments, weights, and biases with the scales of norms. Published counts leave the latter out, but for
# CARAFE's and FADE's.
COUNTS = [
    (dict(type='nearest'), 0, 0),
    (dict(type='bilinear'), 0, 0),
    (dict(type='nearest_conv'), 589_824, 256),
    (dict(type='bilinear_conv'), 589_824, 256),
    (dict(type='deconv'), 589_824, 256),
    (dict(type='pixel_shuffle'), 2_359_296, 1_024),
    (dict(type='gum'), 131_584, 514),
    (dict(type='spatial_attention'), 2_304, 1),
    (dict(type='dysample'), 8_192, 32),
    (dict(type='dysample', dyscope=True), 16_384, 32),
    (dict(type='dysample', style='pl'), 1_024, 16),
    (dict(type='dysample', style='pl', dyscope=True), 2_048, 16),
    (dict(type='fade'), 47_257 - 89, 89),
    (dict(type='fade', gate=True), 47_257 - 89 + 256, 89 + 1),
    (dict(type='fade_lite'), 13_025, 50),
    (dict(type='sapa', similarity='inner'), 0, 1_024),
    (dict(type='sapa'), 16_448 - 64, 64 + 1_024),
    (dict(type='sapa', similarity='gated'), 3 * 8_192 + 256, 3 * 32 + 1 + 1_024),
    (dict(type='sapa_deform'), 139_808 - 544, 544),
    (dict(type='jbu'), 26_562, 164),
    (dict(type='indexnet'), 2_100_224 - 1_024, 1_024),
    (dict(type='a2u'), 10_790 - 1_062, 1_062),
    (dict(type='freqfusion'), 104_690 - 498, 498),
    (dict(type='freqfusion', feature_resample=False), 52_514 - 162, 162),
]
# Tables 8 and 9 of the CARAFE paper: totals with biases.
CARAFE = [
    (dict(), 74_148),
    (dict(compressed_channels=16), 18_612),
    (dict(compressed_channels=32), 37_124),
    (dict(compressed_channels=128), 148_196),
    (dict(compressed_channels=256), 296_292),
    (dict(compressed_channels=None), 230_500),
    (dict(encoder_kernel=1, up_kernel=3), 18_788),
    (dict(encoder_kernel=1, up_kernel=5), 22_948),
    (dict(encoder_kernel=3, up_kernel=3), 37_220),
    (dict(encoder_kernel=3, up_kernel=7), 129_540),
    (dict(encoder_kernel=5, up_kernel=5), 176_548),
    (dict(encoder_kernel=5, up_kernel=7), 330_244),
    (dict(encoder_kernel=7, up_kernel=7), 631_300),
]


def counts(cfg, channels=256):
    """(weights of convolutions, everything else)."""
    parameters = list(build_upsampler(cfg, channels, guide_channels=channels).parameters())
    weights = sum(p.numel() for p in parameters if p.dim() > 1)
    return weights, sum(p.numel() for p in parameters) - weights


def label(cfg):
    return '-'.join(map(str, cfg.values())) if isinstance(cfg, dict) else ''


@pytest.mark.parametrize('cfg, weights, others', COUNTS, ids=label)
def test_published_counts(cfg, weights, others):
    assert counts(cfg) == (weights, others)


@pytest.mark.parametrize('cfg, total', CARAFE, ids=label)
def test_published_counts_of_carafe(cfg, total):
    assert sum(counts(dict(type='carafe', **cfg))) == total


@pytest.mark.parametrize('feature_resample, total', [(True, 137_458), (False, 85_282)])
def test_freqfusion_at_512_channels(feature_resample, total):
    """The derived counts on record are those of 512 channels."""
    assert sum(counts(dict(type='freqfusion', feature_resample=feature_resample), 512)) == total


def test_jbu_with_an_rgb_guide():
    """FeatUp's: four of these, and one convolution of its stack."""
    up = build_upsampler(dict(type='jbu'), 384, guide_channels=3)
    assert sum(p.numel() for p in up.parameters()) == 6_233


def test_no_upsampler_is_left_out():
    assert {cfg['type'] for cfg, *_ in COUNTS} | {'carafe'} == set(UPSAMPLERS)
