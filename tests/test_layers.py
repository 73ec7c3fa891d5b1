# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, those inside functions too: see docs/design.md."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'carafe_plugin'
HOST = {'ops', 'upsamplers', 'downsamplers', 'runtime', '_hosts'}
# What each folder may import of the others; '' is what lies beside them.
ALLOWED = {
    'ops': set(),
    'upsamplers': {'ops'},
    'downsamplers': {'ops'},
    'runtime': {'ops', 'upsamplers'},
    '_hosts': {'ops', 'upsamplers', 'runtime'},
    'detection': HOST,
    'segmentation': HOST,
    'inpainting': HOST,
    'probes': HOST,
    '': {'ops', 'upsamplers', 'runtime'},
}
TORCH_ALONE = ('ops', 'upsamplers', 'downsamplers')
# Users of MMDetection need no MMSegmentation.
WITHOUT_MMSEG = ('detection', '_hosts')
OUTSIDE = {'tools', 'carafe_tools', 'tests', 'benchmarks'}


def imports(path: Path):
    """Full names of the modules that a file imports, ``from a import b`` as ``a.b``."""
    here = '.'.join(path.parent.relative_to(PACKAGE.parent).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name('.' * node.level + (node.module or ''), here)
            yield from (f'{name}.{alias.name}' for alias in node.names)


def test_every_folder_has_a_layer():
    assert {path.parent.name for path in PACKAGE.glob('*/__init__.py')} | {''} == set(ALLOWED)


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports(path):
    folder = path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ''
    for name in imports(path):
        top, second, *_ = [*name.split('.'), '']
        if top == 'carafe_plugin':
            target = second if second in ALLOWED else ''
            assert target == folder or target in ALLOWED[folder], name
        else:
            assert top not in OUTSIDE, name
            assert folder not in WITHOUT_MMSEG or top != 'mmseg', name
            assert folder not in TORCH_ALONE or top == 'torch' or top in sys.stdlib_module_names, name
