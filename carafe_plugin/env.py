# SPDX-License-Identifier: Apache-2.0
"""``python -m carafe_plugin.env``: which operators run here, with which instruction set, and why."""

import os
import platform
import sys

import torch

import carafe_plugin

from .ops import _native


def describe() -> list[tuple[str, str]]:
    """Pairs of a heading and what holds here."""
    lines = [
        ('carafe_plugin', f'{carafe_plugin.__version__} ({os.path.dirname(carafe_plugin.__file__)})'),
        ('torch', f'{torch.__version__}, CUDA {torch.version.cuda or "not built in"}'),
        ('Python', f'{platform.python_version()} on {sys.platform} {platform.machine()}'),
    ]
    for device in ('cpu', 'cuda'):
        if device in _native.loaded:
            lines.append((f'{device} operators', f'native ({_native.loaded[device]})'))
        else:
            lines.append((f'{device} operators', f'plain PyTorch: {_native.why_not(device)}'))
    if 'cpu' in _native.loaded:
        isa = torch.ops.carafe_plugin.cpu_capability()
        wish = os.environ.get('CARAFE_CPU_ISA')
        why = f'CARAFE_CPU_ISA={wish}' if wish else 'the widest that this processor and this library have'
        lines.append(('instruction set', f'{isa}: {why}'))
    return lines


if __name__ == '__main__':
    for heading, text in describe():
        print(f'{heading + ":":18} {text}')
