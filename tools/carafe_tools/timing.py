# SPDX-License-Identifier: Apache-2.0
"""Times and memory of alternatives, measured so that they can be compared. Needs torch alone.

All alternatives run in one process, their calls interleaved in random order, because a machine's clock and
load drift; before each timed call comes one of the same, because what ran last left its own cache. A
median far above the minimum means that something else was running: such a timing is reported and never
judged.
"""

import ctypes
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

#: A median this much above the minimum makes a timing too noisy to judge.
NOISE_LIMIT = 1.3

#: Calls of one alternative, whatever its time.
FEWEST, MOST = 7, 101


@dataclass
class Timing:
    """Calls of one alternative.

    Args:
        samples: time of each call, in milliseconds.
        faults: page faults of each call (CPU); the median counts.
    """

    samples: list[float]
    faults: list[int] = field(default_factory=list)

    @property
    def minimum(self) -> float:
        return min(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median."""
        if len(self.samples) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / self.median

    @property
    def quintiles(self) -> tuple[float, float]:
        """What 20 % and 80 % of the calls stay below."""
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        low, *_, high = statistics.quantiles(self.samples, n=5)
        return low, high

    @property
    def noisy(self) -> bool:
        return self.median > NOISE_LIMIT * self.minimum

    def summary(self) -> dict:
        """Everything but the samples, for a result file."""
        return dict(
            min_ms=round(self.minimum, 5),
            median_ms=round(self.median, 5),
            spread=round(self.spread, 4),
            calls=len(self.samples),
            page_faults=int(statistics.median(self.faults)) if self.faults else None,
            noisy=self.noisy,
        )


def schedule(counts: Mapping[str, int], rng: random.Random) -> list[str]:
    """Order of all calls: each name's are spread over the whole, and shuffled among the others'."""
    places = [((i + rng.random()) / count, name) for name, count in counts.items() for i in range(count)]
    return [name for _, name in sorted(places)]


def measure(
    cases: Mapping[str, Callable[[], object]],
    device: str,
    seconds: float,
    *,
    graph: bool = False,
    seed: int = 0,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time alternatives against each other.

    Args:
        cases: what to call, by name.
        device: 'cpu' or 'cuda'.
        seconds: time to spend on each, about; a slow one is called 7 times at least.
        graph: replay CUDA graphs, so that launches cost next to nothing.
        seed: of the order of the calls.

    Returns:
        The timings, and for the cases that failed their error in a line.
    """
    samplers, counts, failed = {}, {}, {}
    for name, run in cases.items():
        try:
            sampler = _CudaSampler(run, graph) if device == 'cuda' else _CpuSampler(run)
            once = statistics.median(sampler.sample()[0] for _ in range(3))
        except Exception as error:  # a peer that does not run here; out of memory
            failed[name] = one_line(error)
            continue
        samplers[name] = sampler
        counts[name] = max(FEWEST, min(MOST, int(seconds * 1e3 / (2 * once * sampler.inner))))
    timings = {name: Timing([]) for name in samplers}
    for name in schedule(counts, random.Random(seed)):
        if counts[name] > FEWEST:
            samplers[name].run()  # a call of its own before it: else the cache is what the last one left
        milliseconds, faults = samplers[name].sample()
        timings[name].samples.append(milliseconds)
        if faults is not None:
            timings[name].faults.append(faults)
    return timings, failed


class _CpuSampler:
    inner = 1

    def __init__(self, run: Callable[[], object]) -> None:
        self.run = run
        run()

    def sample(self) -> tuple[float, int | None]:
        before, start = _page_faults(), time.perf_counter()
        self.run()
        milliseconds = (time.perf_counter() - start) * 1e3
        after = _page_faults()
        return milliseconds, None if after is None else after - before


class _CudaSampler:
    """Events around as many calls as fill a millisecond, or around replays of a graph of one call."""

    def __init__(self, run: Callable[[], object], graph: bool) -> None:
        self.call, self.inner = run, 1
        # Autograd runs a backward on the stream of its forward: warm-up, capture and both stay on one.
        self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                run()
        torch.cuda.synchronize()
        if graph:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured, stream=self.stream):
                self.kept = run()  # the graph writes there
            self.call = captured.replay
        self.inner = max(1, min(200, int(1 / max(self.sample()[0], 1e-3))))

    def run(self) -> None:
        with torch.cuda.stream(self.stream):  # on another it would run beside the timed ones
            self.call()

    def sample(self) -> tuple[float, int | None]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self.stream):
            start.record()
            for _ in range(self.inner):
                self.call()
            end.record()
        end.synchronize()
        return start.elapsed_time(end) / self.inner, None


def peak_memory(run: Callable[[], object], device: str) -> int | None:
    """Bytes that a call needs at its peak, results included, beyond what is there before it.

    On CUDA the caching allocator's, on Linux the resident pages of the process; None elsewhere.
    """
    if device == 'cuda':
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before
    if not sys.platform.startswith('linux'):
        return None
    run()
    # What else this process allocates meanwhile only adds to it.
    return min(_resident_peak(run) for _ in range(3))


def _resident_peak(run: Callable[[], object]) -> int:
    ctypes.CDLL(None).malloc_trim(0)  # pages that malloc keeps would be used again unseen
    Path('/proc/self/clear_refs').write_text('5')  # the high-water mark starts anew
    before = _status_bytes('VmRSS:')
    result = run()
    peak = _status_bytes('VmHWM:')
    del result
    return max(0, peak - before)


def load() -> float | None:
    """Processes that want to run, a mean over the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None


def one_line(error: BaseException) -> str:
    """The first line of an error, not too long."""
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'[:160]


def progress(items: Iterable, title: str) -> Iterable:
    """A bar on stderr where that is a terminal and tqdm is installed."""
    if not sys.stderr.isatty():
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=title, leave=False)


def _page_faults() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _status_bytes(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))
