# SPDX-License-Identifier: Apache-2.0
"""``python -m carafe_plugin.env``: which operators run here, with which instruction set, and why."""

import contextlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

import carafe_plugin

from .openvino import extension_path
from .ops import _native

PACKAGES = ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmsegmentation')


def describe() -> list[tuple[str, str]]:
    """Pairs of a heading and what holds here."""
    lines = [
        ('carafe_plugin', f'{carafe_plugin.__version__} ({os.path.dirname(carafe_plugin.__file__)})'),
        ('torch', f'{torch.__version__}, CUDA {torch.version.cuda or "not built in"}'),
        ('Python', f'{platform.python_version()} on {sys.platform} {platform.machine()}'),
    ]
    for device in _devices():
        why_not = _native.why_not(device)
        how = f'plain PyTorch: {why_not}'
        if why_not is None:
            how = f'native, {_native.binding()} ({_native.loaded[torch.device(device).type]})'
        lines.append((f'{device} operators', how))
    if torch.cuda.is_available() and _native.why_not('cuda'):
        lines.append(("mmcv's operator", _mmcv()))
    if 'cpu' in _native.loaded:
        isa = torch.ops.carafe_plugin.cpu_capability()
        wish = os.environ.get('CARAFE_CPU_ISA')
        why = f'CARAFE_CPU_ISA={wish}' if wish else 'the widest that this processor and this library have'
        lines.append(('instruction set', f'{isa}: {why}'))
    lines.append(('OpenVINO', _extension()))
    return lines


def _devices() -> list[str]:
    """The CPU, and every GPU by its number, since each may be of another kind."""
    gpus = [f'cuda:{i}' for i in range(torch.cuda.device_count())] if 'cuda' in _native.loaded else []
    return ['cpu', *(gpus or ['cuda'])]


def _extension() -> str:
    try:
        return extension_path()
    except FileNotFoundError as error:
        return f'missing: {error}'


def _mmcv() -> str:
    """Whether it serves on CUDA in the place of ours."""
    try:
        from .runtime import mmcv_operator
    except ImportError as error:
        return f'missing: {error}'
    why_not = mmcv_operator.why_not()
    return f'missing: {why_not}' if why_not else 'serves on CUDA where a host is imported and it is right'


def machine(device: str | None = None) -> str:
    """The GPU, or where there is none or ``device`` is 'cpu', the CPU and its cores for this process."""
    if device != 'cpu' and torch.cuda.is_available():
        return f'{torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{names[0] if names else platform.processor() or platform.machine()}, {cores} cores'


def versions() -> str:
    """Versions of what a result depends on."""
    ours = f'Python {platform.python_version()}, carafe_plugin {carafe_plugin.__version__}'
    return f'{ours}, {installed(PACKAGES)}'


def installed(packages: Iterable[str]) -> str:
    """Names and versions of those packages that are installed."""
    found = []
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f'{package} {importlib.metadata.version(package)}')
    return ', '.join(found)


if __name__ == '__main__':
    for heading, text in describe():
        print(f'{heading + ":":18} {text}')
