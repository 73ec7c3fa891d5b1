# SPDX-License-Identifier: Apache-2.0
"""The speeds that the operator is held to, and what a run says about them."""

from collections.abc import Mapping
from dataclasses import dataclass

from .timing import Timing

PASS, MISS, NOISY, ABSENT = 'pass', 'miss', 'not judged (noisy)', 'not run'


@dataclass(frozen=True)
class Bar:
    """A ratio of two cases' medians at some sizes, and what it must be.

    Args:
        title: what is compared, in a few words.
        over: name of the case above the line; several: the quickest of them.
        under: name of the case below it.
        sizes: where it holds.
        bar: what the ratio must reach.
        aim: what it should reach.
        faster: the ratio is a speed-up: at least ``bar``, not at most.
    """

    title: str
    over: str | tuple[str, ...]
    under: str
    sizes: tuple[str, ...]
    bar: float
    aim: float
    faster: bool = False

    def judge(self, timings: Mapping[str, Timing]) -> tuple[float | None, str]:
        """The ratio and the verdict on the timings of one size."""
        names = (self.over,) if isinstance(self.over, str) else self.over
        over = min((timings[n] for n in names if n in timings), key=lambda t: t.median, default=None)
        under = timings.get(self.under)
        if over is None or under is None:
            return None, ABSENT
        ratio = over.median / under.median
        if over.noisy or under.noisy:
            return ratio, NOISY
        good = ratio >= self.bar if self.faster else ratio <= self.bar
        return ratio, PASS if good else MISS

    def target(self) -> str:
        sign = '≥' if self.faster else '≤'
        return f'{sign} {self.bar:g}'


_MAPS = ('p5', 'p4', 'p3', 'roi2')

#: Scratch of a CPU thread beyond the results, in MB (10^6 bytes).
SCRATCH_BAR = 2.0

#: Two cores, float32, AVX2 or AVX-512, a quiet machine.
CPU_BARS = (
    Bar('forward / bilinear', 'forward', 'bilinear', ('p5', 'p4', 'roi2'), 0.75, 0.5),
    Bar('forward / bilinear', 'forward', 'bilinear', ('p3',), 1.0, 0.5),
    Bar('unfold+einsum / forward', 'unfold+einsum', 'forward', ('p4',), 80, 150, faster=True),
    Bar(
        'best compiled form / forward',
        ('unfold+einsum compiled', 'slices compiled'),
        'forward',
        ('p4',),
        20,
        40,
        faster=True,
    ),
    Bar('both gradients / forward', 'backward', 'forward', _MAPS, 3.0, 2.4),
    Bar('fused / plain forward', 'fused forward', 'forward', _MAPS, 1.15, 1.05),
    Bar('fused / plain backward', 'fused backward', 'backward', _MAPS, 1.2, 1.05),
    Bar('bfloat16 / float32 forward', 'forward bfloat16', 'forward', ('p5', 'p4', 'roi2'), 1.1, 0.9),
    Bar('bfloat16 / float32 forward', 'forward bfloat16', 'forward', ('p3',), 0.7, 0.7),
    Bar('channels_last / contiguous forward', 'forward channels_last', 'forward', _MAPS, 1.2, 1.0),
)

_PYRAMID = ('p5', 'p4', 'p3', 'p2')

#: An H200 or its like.
CUDA_BARS = (
    Bar('mmcv / forward', 'mmcv forward', 'forward', (*_PYRAMID, 'roi512'), 3, 5, faster=True),
    Bar('mmcv / step', 'mmcv step', 'step', (*_PYRAMID, 'roi512'), 3, 5, faster=True),
    Bar('bfloat16 / float32 forward', 'forward bfloat16', 'forward', (*_PYRAMID, 'roi512'), 0.65, 0.5),
    Bar('float16 / float32 forward', 'forward float16', 'forward', (*_PYRAMID, 'roi512'), 0.65, 0.5),
    Bar('mmcv / module step', 'mmcv module step', 'module step', _PYRAMID, 2, 3, faster=True),
    Bar('copy / forward', 'copy', 'forward', ('p3', 'p2', 'roi512'), 0.75, 0.75, faster=True),
)

#: Extra memory of a training step over mmcv's, on CUDA.
MEMORY_BAR = 0.4


def judge_all(device: str, results: Mapping[str, Mapping]) -> list[dict]:
    """Verdicts on a whole run.

    Args:
        device: 'cpu' or 'cuda'.
        results: by size, ``timings``, ``memory`` (peak bytes by case), ``scratch`` (bytes a thread).

    Returns:
        Rows of title, size, ratio, bar, aim, verdict; those of sizes or cases left out are left out.
    """
    rows = []
    for bar in CPU_BARS if device == 'cpu' else CUDA_BARS:
        for size in bar.sizes:
            if size in results:
                ratio, verdict = bar.judge(results[size]['timings'])
                if verdict != ABSENT:
                    rows.append(_row(bar.title, size, ratio, bar.target(), f'{bar.aim:g}', verdict))
    for size, result in results.items():
        memory = result['memory']
        if device == 'cpu' and result['scratch'] is not None:
            megabytes = result['scratch'] / 1e6
            verdict = PASS if megabytes <= SCRATCH_BAR else MISS
            rows.append(_row('scratch, MB a thread', size, megabytes, f'≤ {SCRATCH_BAR:g}', '', verdict))
        if memory.get('mmcv step'):
            ratio = memory['fused step'] / memory['mmcv step']
            verdict = PASS if ratio <= MEMORY_BAR else MISS
            rows.append(_row('memory of a step / mmcv', size, ratio, f'≤ {MEMORY_BAR:g}', '', verdict))
    return rows


def _row(title: str, size: str, ratio: float, bar: str, aim: str, verdict: str) -> dict:
    return dict(comparison=title, size=size, measured=ratio, bar=bar, aim=aim, verdict=verdict)
