# SPDX-License-Identifier: Apache-2.0
"""What every tool answers before it loads what takes seconds."""

import subprocess
import sys

import pytest

from tests.runtime.helpers import ROOT

# Those called by name; the Makefile alone calls setup_env.py and pch_compiler.py, which take no options.
TOOLS = sorted({path.stem for path in (ROOT / 'tools').glob('*.py')} - {'setup_env', 'pch_compiler'})
ASK = """
import runpy, sys
path, option = sys.argv[1:]
sys.path[0], sys.argv = path.rpartition('/')[0], [path, option]
try:
    runpy.run_path(path, run_name='__main__')
except SystemExit as end:
    slow = {'torch', 'mmengine', 'mmcv', 'matplotlib', 'onnxruntime', 'openvino'} & sys.modules.keys()
    print('loaded:', sorted(slow), file=sys.stderr)
    raise
"""


@pytest.mark.parametrize('option, code', [('--help', 0), ('--no-such-option', 2)])
@pytest.mark.parametrize('tool', TOOLS)
def test_help_and_mistakes_load_no_framework(tool, option, code):
    command = [sys.executable, '-c', ASK, str(ROOT / 'tools' / f'{tool}.py'), option]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == 'loaded: []'
    assert 'usage: ' in (done.stderr if code else done.stdout)
