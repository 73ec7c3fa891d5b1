# SPDX-License-Identifier: Apache-2.0
"""Statistics and verdicts on made-up samples; no clock is asked."""

import contextlib
import random

import pytest
import torch

from carafe_tools import report
from carafe_tools.bars import MISS, NOISY, PASS, Bar, judge_all
from carafe_tools.timing import Timing, measure, peak_memory, schedule

STEADY = Timing([1.0, 1.0, 1.0, 1.1, 1.2], [0, 0, 7, 0, 0])


def test_statistics():
    timing = Timing([4.0, 1.0, 2.0, 3.0], [5, 1, 2, 2])
    assert (timing.minimum, timing.median) == (1.0, 2.5)
    assert timing.spread == pytest.approx((3.75 - 1.25) / 2.5)
    assert timing.summary()['page_faults'] == 2
    assert Timing([2.0]).spread == 0


@pytest.mark.parametrize('median, noisy', [(1.29, False), (1.31, True)])
def test_a_median_far_above_the_minimum_is_noise(median, noisy):
    assert Timing([1.0, median, median]).noisy == noisy


def test_every_call_is_scheduled_and_spread_over_the_run():
    order = schedule(dict(quick=100, slow=10), random.Random(0))
    assert order.count('quick') == 100 and order.count('slow') == 10
    for start in range(0, 110, 11):
        assert 8 <= order[start : start + 11].count('quick') <= 11
    assert order != schedule(dict(quick=100, slow=10), random.Random(1))


@pytest.mark.parametrize(
    'over, under, faster, verdict',
    [
        (Timing([2.0, 2.0]), STEADY, False, PASS),
        (Timing([2.1, 2.1]), STEADY, False, MISS),
        (Timing([2.0, 2.0]), STEADY, True, PASS),
        (Timing([1.9, 1.9]), STEADY, True, MISS),
        (Timing([1.0, 1.5, 1.5]), STEADY, False, NOISY),
        (STEADY, Timing([1.0, 1.5, 1.5]), True, NOISY),
    ],
)
def test_verdicts(over, under, faster, verdict):
    bar = Bar('a / b', 'a', 'b', ('p4',), bar=2, aim=1, faster=faster)
    ratio, said = bar.judge(dict(a=over, b=under))
    assert said == verdict and ratio == over.median / under.median


def test_the_quickest_of_several_counts():
    bar = Bar('best / b', ('a', 'c', 'absent'), 'b', ('p4',), bar=2, aim=1)
    assert bar.judge(dict(a=Timing([9.0]), c=Timing([3.0]), b=STEADY)) == (3.0, MISS)


def test_what_did_not_run_has_no_row():
    results = dict(p4=dict(timings=dict(forward=STEADY, bilinear=STEADY), memory={}, scratch=2.5e6))
    rows = judge_all('cpu', results)
    assert [(r['comparison'], r['verdict']) for r in rows] == [
        ('forward / bilinear', MISS),
        ('scratch, MB a thread', MISS),
    ]


def test_a_failing_case_leaves_the_others():
    def broken():
        raise RuntimeError('no kernel\nsecond line')

    timings, failed = measure(dict(good=lambda: None, bad=broken), 'cpu', seconds=0.001)
    assert failed == dict(bad='RuntimeError: no kernel')
    assert list(timings) == ['good'] and len(timings['good'].samples) >= 7


def test_every_call_on_cuda_runs_on_the_stream_that_is_timed(monkeypatch):
    """A stand-in for CUDA: a call elsewhere would run beside the timed ones."""
    streams, calls = [None], []

    class Stream:
        def wait_stream(self, other):
            pass

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            assert streams[-1] is not None

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 0.1

    @contextlib.contextmanager
    def stream(own):
        streams.append(own)
        yield
        streams.pop()

    for name, value in dict(
        Stream=Stream, Event=Event, stream=stream, current_stream=lambda: None, synchronize=lambda: None
    ).items():
        monkeypatch.setattr(torch.cuda, name, value)
    timings, failed = measure({n: lambda n=n: calls.append((n, streams[-1])) for n in 'ab'}, 'cuda', 0.01)
    assert not failed and timings['a'].median == pytest.approx(0.1 / 10)
    assert len(set(calls)) == 2 and None not in [own for _, own in calls]


def test_peak_memory_counts_what_is_freed_again():
    def run():
        hidden = torch.ones(8 << 20)  # 32 MiB
        return hidden[:1] + 1

    peak = peak_memory(run, 'cpu')
    if peak is None:
        pytest.skip('this system does not tell')
    assert 30 << 20 < peak < 40 << 20


def test_numbers_in_a_table():
    text = report.table([dict(a=0.012345, b=123.4, c=None), dict(a=0.0, b=12, c='x')])
    assert text.splitlines() == [
        '| a      | b   | c |',
        '|--------|-----|---|',
        '| 0.0123 | 123 | - |',
        '| 0      | 12  | x |',
    ]
