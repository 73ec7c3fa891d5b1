# SPDX-License-Identifier: Apache-2.0
"""Set-ups whose times other papers published, with the upsamplers here that can be measured in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .models import upsampler_forward
from .timing import measure, one_line


@dataclass(frozen=True)
class Setup:
    """A set-up of a paper: the forward of an upsampler on a map.

    Args:
        source: where the times stand.
        gpu: what they were measured on.
        size: of the input, (N, C, H, W).
        factors: ratios of upsampling.
        upsamplers: registered names of those to measure.
        published: the times in ms, as printed, by method and ratio.
    """

    source: str
    gpu: str
    size: tuple[int, int, int, int]
    factors: tuple[int, ...]
    upsamplers: tuple[str, ...]
    published: Mapping[tuple[str, int], str]


SETUPS = dict(
    fade=Setup(
        source='Lu et al., FADE, IJCV 2024; dysample: Liu et al., DySample, ICCV 2023',
        gpu='RTX 3090',
        size=(1, 256, 120, 120),
        factors=(2,),
        upsamplers=('bilinear', 'carafe', 'indexnet', 'a2u', 'fade', 'fade_lite', 'dysample'),
        published={
            ('bilinear', 2): '1.5',
            ('carafe', 2): '11.1',
            ('indexnet', 2): '26.4',
            ('a2u', 2): '24.2',
            ('fade', 2): '20.2',
            ('fade_lite', 2): '17.6',
            ('dysample', 2): '6.2 to 7.6',  # its four forms
        },
    ),
    # Features of a 448 x 448 image. Its own times were not at hand, those of its peers at both ends alone.
    naf=Setup(
        source='Chambon et al., NAF, arXiv:2511.18452, its peers; quoted at second hand',
        gpu='A100',
        size=(1, 384, 28, 28),
        factors=(2, 4, 8, 16),
        upsamplers=('nearest', 'bilinear', 'carafe', 'dysample'),
        published={
            ('FeatUp', 2): '8.9',
            ('FeatUp', 16): '57.1',
            ('AnyUp', 2): '11.2',
            ('AnyUp', 16): '182',
        },
    ),
)


def measure_setup(name: str, device: str, seconds: float) -> tuple[list[dict], list[dict]]:
    """The forward of every upsampler of a set-up at every ratio, all against each other.

    Args:
        name: a key of :data:`SETUPS`.
        device: 'cpu' or 'cuda'.
        seconds: to spend on each measurement.

    Returns:
        A row for each method and ratio, with the quantiles in ms (None for a method that is only published),
        and a row for each that failed.
    """
    setup = SETUPS[name]
    runs, failed = {}, {}
    for factor in setup.factors:
        for upsampler in setup.upsamplers:
            try:
                runs[upsampler, factor] = upsampler_forward(upsampler, setup.size, factor, device)
            except Exception as error:  # whatever a constructor raises; out of memory
                failed[upsampler, factor] = one_line(error)
    timings, errors = measure(runs, device, seconds)
    rows = []
    for method, factor in [*timings, *(key for key in setup.published if key not in runs)]:
        timing = timings.get((method, factor))
        low, high = timing.quintiles if timing else (None, None)
        rows.append(
            dict(
                setup=name,
                size='x'.join(map(str, setup.size)),
                factor=factor,
                method=method,
                p20_ms=low,
                p50_ms=timing.median if timing else None,
                p80_ms=high,
                noisy=timing.noisy if timing else None,
                published_ms=setup.published.get((method, factor)),
                published_on=setup.gpu,
            )
        )
    lost = [dict(setup=name, factor=f, method=m, failed=why) for (m, f), why in (failed | errors).items()]
    return rows, lost


def csv_rows(rows: Sequence[Mapping], about: Mapping[str, object]) -> list[dict]:
    """The measured rows with what a reader of many runs must know about each."""
    head = {key: about[key] for key in ('date', 'machine', 'threads', 'operator', 'versions')}
    return [
        head | {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        for row in rows
        if row['p50_ms'] is not None
    ]
