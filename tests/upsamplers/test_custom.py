# SPDX-License-Identifier: Apache-2.0
"""A user's own upsampler, in a file outside the package, as docs/custom.md has it."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECK = """
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

cfg = Config.fromfile('config.py')  # imports what custom_imports names
neck = MODELS.build(dict(cfg.model.neck, in_channels=[4, 8], out_channels=8, num_outs=2))
maps = neck((torch.rand(1, 4, 7, 9), torch.rand(1, 8, 4, 5)))
maps[0].square().sum().backward()
assert type(neck.upsamplers[0]).__module__ == 'my_upsamplers'
assert all(p.grad.any() for p in neck.upsamplers.parameters())
"""


def test_the_documented_upsampler_works_in_a_host(tmp_path):
    text = (ROOT / 'docs' / 'custom.md').read_text()
    blocks = re.findall(r'```python[^\n]*\n(.*?)```', text, flags=re.DOTALL)
    module = next(block for block in blocks if '@UPSAMPLERS.register_module' in block)
    (tmp_path / 'my_upsamplers.py').write_text(module)
    imports = re.search(r'custom_imports = [^`\n]*my_upsamplers[^`\n]*', text)[0]
    name = re.search(r"register_module\('(\w+)'\)", module)[1]
    neck = f"dict(type='UpsampleFPN', upsample_cfg=dict(type='{name}'))"
    (tmp_path / 'config.py').write_text(f'{imports}\nmodel = dict(neck={neck})\n')
    check = [sys.executable, '-W', 'ignore', '-c', CHECK]
    env = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(check, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
