# SPDX-License-Identifier: Apache-2.0
"""Draw the training curves of one or several runs into one picture.

A run is a work_dir of tools/train.py. The parts of a resumed run are joined; where they overlap,
the later part counts.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable
from itertools import cycle, product
from pathlib import Path

MACHINERY = ('lr', 'base_lr', 'memory', 'grad_norm')
TIMES = ('time', 'data_time')  # logged beside the metrics of a validation
DEFAULT_KEYS = ('loss', 'bbox_mAP', 'segm_mAP', 'mAP', 'PQ', 'mIoU', 'mBIoU', 'PSNR')
# The Okabe-Ito colours but the yellow, which is too pale for a line on white.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000')


def read_scalars(path: Path) -> list[dict]:
    """The records of one scalars.json, one a line; a last line cut short by a kill is left out."""
    records = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f'{path}, line {number}: not JSON ({error})') from error
    return records


def read_run(run_dir: str | Path) -> tuple[list[dict], list[dict], str]:
    """Read the logs of one run, its resumed parts joined.

    Args:
        run_dir: The run's work_dir, which has a folder named by time for each start of the run.

    Returns:
        The records of training, those of validation, and what validation counts in, 'epoch' or
        'iteration'. ``record['step']`` is the position in the run.

    Raises:
        ValueError: The folder has no log, or a log is broken.
    """
    files = sorted(Path(run_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise ValueError(f'{run_dir}: not a work_dir with logs (no */vis_data/scalars.json)')
    records: list[dict] = []
    for file in files:
        part = read_scalars(file)
        restart = next((record['iter'] for record in part if 'iter' in record), math.inf)
        # What came before is void from the iteration on at which this part took over.
        void = (i for i, r in enumerate(records) if r.get('iter', -1) >= restart)
        records = records[: next(void, len(records))] + part

    train, val = [], []
    unit = 'epoch' if any('epoch' in record for record in records) else 'iteration'
    for record in records:
        if 'iter' in record:
            train.append({**record, 'step': record['iter']})
        else:
            # Unless told otherwise the logger counts epochs, which stay 0 in a run by iterations.
            step = record['step'] or (train[-1]['step'] if train else 0)
            metrics = {k: v for k, v in record.items() if k not in TIMES}
            val.append({**metrics, 'step': step})
    return train, val, unit


def logged_keys(records: list[dict]) -> list[str]:
    """Names of the numbers in these records, in the order of their first appearance."""
    keys = {k: None for r in records for k, v in r.items() if isinstance(v, (int, float))}
    return [key for key in keys if key not in ('step', 'iter', 'epoch')]


def find_key(name: str, keys: list[str]) -> str | None:
    """The one of ``keys`` that is ``name`` or ends in ``/name`` (``segm_mAP``: ``coco/segm_mAP``)."""
    if name in keys:
        return name
    found = [key for key in keys if key.endswith(f'/{name}')]
    if len(found) > 1:
        raise ValueError(f'key {name!r} is ambiguous: {", ".join(found)}')
    return found[0] if found else None


def labels(run_dirs: list[Path]) -> list[str]:
    """A short name for each run: its path without what all have in common."""
    paths = [path.resolve() for path in run_dirs]
    if len(paths) == 1:
        return [paths[0].name]
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def collect(runs: dict[str, tuple], names: list[str] | None) -> dict[str, dict[str, tuple]]:
    """Gather the curves: for each key the steps and values of each run.

    Args:
        runs: Label -> what :func:`read_run` gave.
        names: The keys wanted, all of which must exist; None for those of the usual ones that do.

    Returns:
        Key -> label -> ('training' or 'validation', what the steps count, steps, values).
    """
    figures: dict[str, dict[str, tuple]] = {}
    for name in names or DEFAULT_KEYS:
        curves = {}
        for label, (train, val, unit) in runs.items():
            for records, phase, axis in (
                (train, 'training', 'iteration'),
                (val, 'validation', unit),
            ):
                key = find_key(name, logged_keys(records))
                if key:
                    points = [(r['step'], r[key]) for r in records if key in r]
                    curves[label] = (phase, axis, *zip(*points, strict=True))
                    break
            else:
                if names:
                    known = logged_keys(train) + logged_keys(val)
                    raise ValueError(f'run {label!r} has no key {name!r}; it has: {", ".join(known)}')
        if len({unit for _, unit, *_ in curves.values()}) > 1:
            raise ValueError(f'{name!r} is logged by epoch in one run, by iteration in another')
        if curves:
            figures[name] = curves
    if not figures:
        raise ValueError(f'none of the runs has any of {", ".join(DEFAULT_KEYS)}; use --keys')
    return figures


def left_out(runs: dict[str, tuple], names: Iterable[str]) -> list[str]:
    """Losses and metrics of the runs that are not among the drawn ``names``, in the order of the logs."""
    keys = {}
    for train, val, _ in runs.values():
        for records in (train, val):
            logged = logged_keys(records)
            drawn = {find_key(name, logged) for name in names}
            keys |= {key: None for key in logged if key not in drawn}
    return [key for key in keys if key not in (*TIMES, *MACHINERY)]


def draw(figures: dict[str, dict[str, tuple]], run_labels: list[str], out: Path) -> None:
    """Draw one panel per key, one line per run."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    styles = cycle(product(('-', '--', ':'), COLOURS))
    style = dict(zip(run_labels, styles, strict=False))
    columns = min(len(figures), 3)
    rows = math.ceil(len(figures) / columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.5 * rows), squeeze=False, layout='constrained'
    )
    for ax in axes.flat[len(figures) :]:
        ax.remove()
    for ax, (key, curves) in zip(axes.flat, figures.items(), strict=False):
        phase, unit = next(iter(curves.values()))[:2]
        for label, (_, _, steps, values) in curves.items():
            line, colour = style[label]
            # A marker where points are few: validations are far apart, and one alone has no line.
            marker = 'o' if len(steps) <= 25 else None
            ax.plot(steps, values, line, color=colour, marker=marker, ms=4, lw=1.8, label=label)
            if len(curves) == 1 and marker:
                ax.annotate(
                    f'{values[-1]:#.3g}',
                    (steps[-1], values[-1]),
                    xytext=(0, 7),
                    textcoords='offset points',
                    ha='center',
                    color=colour,
                )
        ax.set(title=f'{key} ({phase})', xlabel=unit, ylabel=key)
        ax.set_xlim(left=0)
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0), high + 0.05 * (high - min(low, 0)))
        ax.grid(alpha=0.3, lw=0.6)
        ax.spines[['top', 'right']].set_visible(False)
    if len(run_labels) == 1:
        fig.suptitle(run_labels[0])
    else:
        handles = [
            plt.Line2D([], [], color=colour, ls=line, lw=1.8)
            for line, colour in (style[label] for label in run_labels)
        ]
        fig.legend(
            handles,
            run_labels,
            loc='outside upper center',
            ncols=min(len(run_labels), 4),
            frameon=False,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(out, dpi=150)
    plt.close(fig)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('run_dirs', nargs='+', type=Path, metavar='RUN_DIR', help='work_dir of a run')
    parser.add_argument('--out', type=Path, default=Path('curves.png'), help='default: %(default)s')
    parser.add_argument(
        '--keys',
        nargs='+',
        help=f'what to draw (default: what there is of {" ".join(DEFAULT_KEYS)})',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        names = labels(args.run_dirs)
        runs = {name: read_run(path) for name, path in zip(names, args.run_dirs, strict=True)}
        figures = collect(runs, args.keys)
        draw(figures, names, args.out)
    except (ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    print(f'curves of {", ".join(names)} -> {args.out}')
    if not args.keys and (others := left_out(runs, figures)):
        print(f'not drawn: {", ".join(others)}; --keys draws them')


if __name__ == '__main__':
    main()
