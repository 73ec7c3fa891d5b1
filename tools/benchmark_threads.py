#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Time the quick start's training steps under OpenMP's ways of waiting, quiet and beside busy loops.

GNU OpenMP lets a thread that waits spin for a while before it sleeps. On a machine with other work it spins
where another process could have run.

    python tools/benchmark_threads.py --out benchmarks/MACHINE       # half an hour; leave the machine alone
"""

import argparse
import contextlib
import datetime
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--spin-counts', type=int, nargs='+', default=[1000])
    parser.add_argument('--busy', type=int, nargs='+', default=[0, 1, 5], help='numbers of busy loops')
    parser.add_argument('--iters', type=int, default=36, help='steps of a run; the last two thirds count')
    parser.add_argument('--rounds', type=int, default=3, help='runs of each setting')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark/cpu'))
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

from tqdm import tqdm

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.env import machine, versions
from carafe_tools import report

TOOLS = Path(__file__).resolve().parent
CONFIG = TOOLS.parent / 'configs/quickstart/mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py'
DEFAULT = "OpenMP's own (300000)"
CHOSEN = 'as tools/train.py chooses'
VARIABLES = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')


@contextlib.contextmanager
def busy_loops(count: int):
    loops = [subprocess.Popen(['sh', '-c', 'while :; do :; done']) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def step_times(folder: Path, setting: dict, iters: int) -> list[float]:
    """Train, and read the seconds of each step from the log."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | setting
    with tempfile.TemporaryDirectory(dir=folder) as work_dir:
        options = [f'train_cfg.max_iters={iters}', f'train_cfg.val_interval={2 * iters}']
        options += ['default_hooks.logger.interval=1', 'log_processor.window_size=1']
        command = [TOOLS / 'train.py', CONFIG, '--work-dir', work_dir, '--cfg-options', *options]
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f'error: the training failed:\n{done.stderr}')
        log = next(Path(work_dir).glob('*/vis_data/scalars.json'))
        times = [json.loads(line)['time'] for line in log.read_text().splitlines()]
    return times[iters // 3 :]


def main() -> None:
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # busy loops are ended in any case
    counts = {DEFAULT: 300000} | {f'GOMP_SPINCOUNT={count}': count for count in args.spin_counts}
    settings = {name: dict(GOMP_SPINCOUNT=str(count)) for name, count in counts.items()}
    settings[CHOSEN] = {}
    settings['OMP_WAIT_POLICY=passive'] = dict(OMP_WAIT_POLICY='passive')
    times = {(name, busy): [] for busy in args.busy for name in settings}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make = [TOOLS / 'make_shapes.py', 'data/shapes', '--train', 64, '--val', 6]
        subprocess.run([sys.executable, *map(str, make)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        bar = tqdm(total=len(times) * args.rounds, unit='run')
        for busy in args.busy:
            with busy_loops(busy):
                for _ in range(args.rounds):  # in turn, so that a slow minute meets every setting
                    for name, setting in settings.items():
                        times[name, busy] += step_times(folder, setting, args.iters)
                        bar.update()
        bar.close()
    medians = {key: statistics.median(values) for key, values in times.items()}
    quiet = medians[DEFAULT, args.busy[0]]
    rows = [
        {'waiting': name}
        | {
            f'{busy} busy loops': f'{medians[name, busy]:.3f} s ({medians[name, busy] / quiet:.2f})'
            for busy in args.busy
        }
        for name in settings
    ]
    about = {
        'command': f'`python tools/benchmark_threads.py {shlex.join(sys.argv[1:])}`',
        'date': datetime.date.today().isoformat(),
        'machine': machine('cpu'),
        'versions': versions(),
        'times': f'medians of a training step; in brackets over {DEFAULT} beside {args.busy[0]}',
    }
    text = report.document("Training steps under OpenMP's ways of waiting", about, {'Steps': rows})
    raw = [dict(waiting=name, busy=busy, seconds=values) for (name, busy), values in times.items()]
    report.write(args.out, 'threads', dict(facts=about, results=raw), text)
    print(text)


if __name__ == '__main__':
    main()
