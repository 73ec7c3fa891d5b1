# SPDX-License-Identifier: Apache-2.0
"""Configs as the tools read them: classes in them, copies of them, and imports that options ask for."""

import sys

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

from carafe_plugin.detection import UpsampleFCNMaskHead, UpsampleFPN
from carafe_plugin.runtime.errors import UserError
from carafe_plugin.upsamplers import CARAFE, UPSAMPLERS, DySample
from carafe_tools.launch import read_config

NEW_STYLE = """
from carafe_plugin.detection import UpsampleFPN, UpsampleFCNMaskHead
from carafe_plugin.upsamplers import CARAFE, DySample
neck = dict(
    type=UpsampleFPN, in_channels=[8, 16], out_channels=8, num_outs=2,
    upsample_cfg=dict(type=CARAFE, up_kernel=3))
head = dict(
    type=UpsampleFCNMaskHead, num_convs=1, in_channels=8, conv_out_channels=8, num_classes=2,
    upsample_cfg=dict(type=DySample))
"""
OWN = """
from carafe_plugin import UPSAMPLERS
from carafe_plugin.upsamplers import NearestUpsampler

@UPSAMPLERS.register_module('of_an_option')
class OfAnOption(NearestUpsampler):
    pass
"""


def test_a_copy_of_a_config_with_classes_builds_the_same(tmp_path):
    """As a Runner saves it in the work_dir, where a class has become its path."""
    config = tmp_path / 'config.py'
    config.write_text(NEW_STYLE)
    copies = [tmp_path / 'copy.py', tmp_path / 'copy_of_copy.py']
    for source, copy in zip([config, copies[0]], copies, strict=True):
        Config.fromfile(source).dump(copy)
    assert 'carafe_plugin.upsamplers.CARAFE' in copies[0].read_text()
    for file in (config, *copies):
        cfg = read_config(str(file), None)
        neck, head = MODELS.build(cfg.neck), MODELS.build(cfg.head)
        assert type(neck) is UpsampleFPN and type(head) is UpsampleFCNMaskHead
        assert type(neck.upsamplers[0]) is CARAFE and neck.upsamplers[0].up_kernel == 3
        assert type(head.upsample) is DySample


@pytest.mark.parametrize('option', ['custom_imports.imports', 'custom_imports'])
def test_imports_by_an_option(tmp_path, monkeypatch, option):
    module = f'of_an_option_{option.count(".")}'
    (tmp_path / f'{module}.py').write_text(OWN)
    config = tmp_path / 'config.py'
    config.write_text(
        "neck = dict(type='mmdet.UpsampleFPN', in_channels=[8, 16], out_channels=8, num_outs=2)"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    names = [module] if '.' in option else dict(imports=[module])
    try:
        cfg = read_config(str(config), {option: names, 'neck.upsample_cfg.type': 'of_an_option'})
        assert type(MODELS.build(cfg.neck).upsamplers[0]) is sys.modules[module].OfAnOption
        assert cfg.custom_imports.imports == [module]  # for the copy in the work_dir
    finally:
        UPSAMPLERS._classes.pop('of_an_option', None)


def test_an_import_that_fails_is_told(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('a = 1')
    with pytest.raises(UserError, match=r'--cfg-options custom_imports: .*no_such_module'):
        read_config(str(config), {'custom_imports.imports': ['no_such_module']})
