# SPDX-License-Identifier: Apache-2.0
"""When waiting threads are told to sleep early: on busy cores alone, and never against the user's word."""

import os

import pytest

from carafe_tools import threads

TICKS = os.sysconf('SC_CLK_TCK')


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Four cores; returns what a second of sleep finds, given how many of them are idle in it."""
    stat, clock = tmp_path / 'stat', [100.0]
    monkeypatch.setattr(threads, '_STAT', stat)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(4))
    monkeypatch.setattr(threads.time, 'monotonic', lambda: clock[0])
    for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'OMP_NUM_THREADS'):
        monkeypatch.delenv(name, raising=False)

    def chosen(idle: float, **environment: str) -> str | None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

        def write(ticks):
            # user nice system idle iowait irq softirq steal
            stat.write_text(f'cpu  9 9 9 {ticks} 7 9 9 9\ncpu0 1 1 1 1 1 1 1 1\n')

        def sleep(_):
            clock[0] += 1
            write(1000 + round(idle * TICKS))

        write(1000)
        monkeypatch.setattr(threads.time, 'sleep', sleep)
        threads.share_busy_cores()
        return os.environ.get('GOMP_SPINCOUNT')

    yield chosen
    os.environ.pop('GOMP_SPINCOUNT', None)


@pytest.mark.parametrize('idle, expected', [(4, None), (3.8, None), (3.0, '1000'), (0.0, '1000')])
def test_only_where_other_processes_run(machine, capsys, idle, expected):
    assert machine(idle) == expected
    assert ('GOMP_SPINCOUNT=1000' in capsys.readouterr().err) == (expected is not None)


def test_threads_that_find_a_core_each_are_left_alone(machine):
    assert machine(2.0, OMP_NUM_THREADS='2') is None
    assert machine(1.0, OMP_NUM_THREADS='2') == '1000'


@pytest.mark.parametrize(
    'environment', [dict(OMP_WAIT_POLICY='active'), dict(GOMP_SPINCOUNT='77'), dict(OMP_NUM_THREADS='1')]
)
def test_the_users_word_stands(machine, environment):
    assert machine(0.0, **environment) == environment.get('GOMP_SPINCOUNT')


def test_no_linux(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(threads, '_STAT', tmp_path / 'none')
    threads.share_busy_cores()
    assert 'GOMP_SPINCOUNT' not in os.environ
