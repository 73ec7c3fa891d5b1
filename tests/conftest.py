# SPDX-License-Identifier: Apache-2.0
"""For every test: the reference form may serve, and no default scope of mmengine is left behind.

At the end the skips are counted by reason. CI knows which it has (skips.txt, and the file that CARAFE_SKIPS
names, for a machine that lacks more) and fails on any other: a library that did not build must not turn its
tests off in silence.
"""

import collections
import ctypes
import os
import re
import sys
from pathlib import Path

import pytest

# Tests import what the tools share; last, since names such as tools/test.py hide modules of Python.
sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))

KNOWN_SKIPS = [Path(__file__).with_name('skips.txt')]
if os.environ.get('CARAFE_SKIPS'):
    KNOWN_SKIPS.append(Path(os.environ['CARAFE_SKIPS']))


def pytest_configure(config):
    # A checkout whose native library is not built passes its tests, on the reference form.
    config.addinivalue_line('filterwarnings', 'default:carafe_plugin runs its plain PyTorch operators')


def skips_by_reason(config) -> collections.Counter:
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    skipped = reporter.stats.get('skipped', []) if reporter else []
    return collections.Counter(report.longrepr[2].removeprefix('Skipped: ') for report in skipped)


def unknown_skips(reasons) -> list[str]:
    lines = [line for path in KNOWN_SKIPS for line in path.read_text().splitlines()]
    known = [line for line in lines if line and not line.startswith('#')]
    return [reason for reason in reasons if not any(re.fullmatch(pattern, reason) for pattern in known)]


def pytest_sessionfinish(session, exitstatus):
    in_ci = os.environ.get('CI') == 'true' and not hasattr(session.config, 'workerinput')
    if in_ci and exitstatus == pytest.ExitCode.OK and unknown_skips(skips_by_reason(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    reasons = skips_by_reason(config)
    unknown = unknown_skips(reasons)
    if reasons:
        terminalreporter.section('skips by reason')
    for reason, count in reasons.most_common():
        note = f'  (not in {KNOWN_SKIPS[0].name}: CI fails)' if reason in unknown else ''
        terminalreporter.line(f'{count:5}  {reason}{note}')


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (('start', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t))


@pytest.fixture(autouse=True)
def _signal_stack_is_put_back():
    """OpenVINO (2026.4) gives the thread a stack for signals, and of two cores may leave one that is freed.

    The next signal with a handler, such as that of a child's end, would end the process.
    """
    if sys.platform != 'linux':
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    yield
    libc.sigaltstack(ctypes.byref(before), None)


@pytest.fixture(autouse=True)
def _scope_is_put_back():
    """A Runner or a toolbox's init leaves a scope behind, in which the next test would build."""
    before = dict(_scopes())
    yield
    scopes = _scopes()
    scopes.clear()
    scopes.update(before)


def _scopes():
    module = sys.modules.get('mmengine.registry.default_scope')
    return module.DefaultScope._instance_dict if module else {}
