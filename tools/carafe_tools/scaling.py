# SPDX-License-Identifier: Apache-2.0
"""Times over numbers of CPU threads: of the operator, and of a detector's training step."""

from collections.abc import Callable, Sequence

import torch

from . import models, op_cases
from .timing import Timing, measure

#: Cases of the operator, at these sizes.
CASES = ('forward', 'step', 'fused step')
SIZES = ('p5', 'p4', 'p3')


def powers_of_two(most: int) -> list[int]:
    return [1 << i for i in range(most.bit_length())]


def operator_runs() -> dict[str, Callable]:
    runs = {}
    for size in SIZES:
        cases = op_cases.make_cases(size, 'cpu', ['float32'], forms=False)
        runs |= {f'{case}, {size}': cases[case].run for case in CASES}
    return runs


def measure_scaling(
    runs: dict[str, Callable], counts: Sequence[int], seconds: float
) -> tuple[list[dict], list[dict]]:
    """Every run with every number of threads, all against each other.

    Args:
        runs: what to call, by name.
        counts: numbers of threads; the first one is what the others are compared with.
        seconds: to spend on each measurement.

    Returns:
        A row for each run and number, and a row for each that failed. What is noisy has no speed-up.
    """
    before = torch.get_num_threads()

    def with_threads(run: Callable, count: int) -> Callable:
        def call():
            if torch.get_num_threads() != count:
                torch.set_num_threads(count)
            return run()

        return call

    cases = {(name, count): with_threads(run, count) for name, run in runs.items() for count in counts}
    try:
        timings, failed = measure(cases, 'cpu', seconds)
    finally:
        torch.set_num_threads(before)
    rows = [
        _row(name, count, timing, timings.get((name, counts[0]))) for (name, count), timing in timings.items()
    ]
    return rows, [dict(what=name, threads=count, failed=why) for (name, count), why in failed.items()]


def _row(name: str, count: int, timing: Timing, first: Timing | None) -> dict:
    judged = first is not None and not (first.noisy or timing.noisy)
    return dict(
        what=name,
        threads=count,
        median_ms=round(timing.median, 4),
        min_ms=round(timing.minimum, 4),
        spread=models.spread(timing),
        speed_up=round(first.median / timing.median, 2) if judged else None,
    )
