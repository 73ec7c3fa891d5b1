# SPDX-License-Identifier: Apache-2.0
"""Which parts of a model the cells of a comparison set."""

import pytest

from carafe_tools.cells import set_upsampler


@pytest.mark.parametrize(
    ('before', 'name', 'after', 'count'),
    [
        (None, 'carafe', dict(type='carafe'), 1),
        (dict(type='carafe', up_kernel=7), 'carafe', dict(type='carafe', up_kernel=7), 1),
        (dict(type='carafe', up_kernel=7), 'deconv', dict(type='deconv'), 1),
        (dict(type='carafe'), 'stock', None, 1),
        # UperNet's places: those that the config names, no others.
        (
            dict(ppm=None, fpn=dict(type='carafe')),
            'fade',
            dict(ppm=dict(type='fade'), fpn=dict(type='fade')),
            2,
        ),
        (dict(fusion=dict(type='carafe')), 'stock', dict(fusion=None), 1),
        # What the stock FPN gives to F.interpolate.
        (dict(mode='nearest'), 'carafe', dict(mode='nearest'), 0),
        (dict(), 'carafe', dict(), 0),
    ],
)
def test_set_upsampler(before, name, after, count):
    model = dict(heads=[dict(upsample_cfg=before)], neck=dict(type='FPN'))
    assert set_upsampler(model, name) == count
    assert model == dict(heads=[dict(upsample_cfg=after)], neck=dict(type='FPN'))
