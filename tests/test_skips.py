# SPDX-License-Identifier: Apache-2.0
"""A run of CI that skips a test for a reason nobody wrote down is red."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    'ci, reason, code',
    [
        ('true', 'no CUDA device', 0),
        ('true', 'no native library: gone', 1),
        ('true', 'needs this and that', 0),
        ('', 'no native library: gone', 0),
    ],
)
def test_unknown_reason(tmp_path, ci, reason, code):
    for name in ('conftest.py', 'skips.txt'):
        shutil.copy(HERE / name, tmp_path)
    test = f'import pytest\n\n\ndef test():\n    pytest.skip({reason!r})\n\n\ndef test_more():\n    pass\n'
    (tmp_path / 'test_it.py').write_text(test)
    (tmp_path / 'more.txt').write_text('# Of this machine.\nneeds .*\n')
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '--rootdir', tmp_path, tmp_path]
    env = os.environ | {'CI': ci, 'CARAFE_SKIPS': 'more.txt'}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stdout
    assert f'1  {reason}' in done.stdout
