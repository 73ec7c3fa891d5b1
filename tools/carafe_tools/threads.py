# SPDX-License-Identifier: Apache-2.0
"""How the threads of a run wait for each other on a machine that others use as well."""

import os
import sys
import time
from pathlib import Path

_STAT = Path('/proc/stat')  # Linux, where torch's OpenMP is GNU's
_SAMPLE_S = 0.3
# Rounds of GNU OpenMP's loop: some microseconds instead of milliseconds; docs/benchmark.md has the figures.
_SPIN_COUNT = '1000'


def share_busy_cores() -> None:
    """Let waiting threads sleep early where other processes leave this one fewer cores than it has threads.

    GNU OpenMP lets a thread that waits spin for milliseconds, on cores that others could use: good on a quiet
    machine, and the slower the busier it is. The count is read when torch is loaded, so call this before.
    ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY`` in the environment, or one thread, leaves all as it is.
    """
    if {'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'} & os.environ.keys() or not _STAT.exists():
        return
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.get('OMP_NUM_THREADS', '')
    threads = int(threads) if threads.isdigit() else cores
    # A quarter of a core covers what a desktop does beside.
    if threads > 1 and _idle_cores() < min(threads, cores) - 0.25:
        os.environ['GOMP_SPINCOUNT'] = _SPIN_COUNT
        print(
            f'Other processes keep cores busy: waiting threads sleep early (GOMP_SPINCOUNT={_SPIN_COUNT}).',
            file=sys.stderr,
        )


def _idle_cores() -> float:
    """How many cores did nothing over a short while, this process asleep."""
    idle, start = _idle_ticks(), time.monotonic()
    time.sleep(_SAMPLE_S)
    return (_idle_ticks() - idle) / os.sysconf('SC_CLK_TCK') / (time.monotonic() - start)


def _idle_ticks() -> int:
    fields = _STAT.read_text().split('\n', 1)[0].split()  # cpu user nice system idle iowait ...
    return int(fields[4]) + int(fields[5])
