# SPDX-License-Identifier: Apache-2.0
"""The table of `make matrix`: rows merge, what failed is named."""

import pytest

from tests.runtime.helpers import load_tool


@pytest.fixture
def matrix(tmp_path, monkeypatch):
    tool = load_tool('matrix')
    monkeypatch.setattr(tool, 'RESULTS', tmp_path / 'matrix.json')
    return tool


def record(row, failures=(), **more):
    counts = dict(passed=7, failed=len(failures), skipped=1, failures=list(failures))
    fixed = dict(date='2026-01-01', commit='abc', cpu='native', cuda='')
    return dict(row=row, operators=counts) | fixed | more


def test_a_row_replaces_its_older_self_only(matrix):
    matrix.save(record('newest', hosts='not run: no mmcv'))
    matrix.save(record('3.13-2.10.0', failures=['tests.ops.test_it']))
    matrix.save(record('3.13-2.10.0', error='torch: no such version'))
    text = matrix.RESULTS.with_suffix('.md').read_text()
    rows = [line.split(' | ') for line in text.splitlines() if ' 7 / 0 / 1 ' in line]
    assert [row[0] for row in rows] == ['| 3.13-2.10.0', '| newest']
    assert 'tests.ops.test_it' not in text
    assert '- stopped: torch: no such version' in text
    assert '## newest: passed' in text
    assert '## 3.13-2.10.0: FAILED' in text


def test_failures_are_named(matrix):
    matrix.save(record('newest', failures=['tests.ops.test_it']))
    text = matrix.RESULTS.with_suffix('.md').read_text()
    assert '7 / 1 / 1' in text and '- failed: `tests.ops.test_it`' in text
    assert matrix.is_good(record('newest'))
    assert not matrix.is_good(record('newest', failures=['tests.ops.test_it']))
    assert not matrix.is_good(record('newest', cpu='plain PyTorch: it does not load'))
