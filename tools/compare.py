# SPDX-License-Identifier: Apache-2.0
"""Train one config with several upsamplers and seeds, equal budget each, and tabulate the results.

Every upsample_cfg of the config's model is set to the upsampler's name; the word "stock" sets it to
None, the operator of the stock class. Each pair of upsampler and seed is a cell, trained by
tools/train.py in WORK_DIR/UPSAMPLER/seedK. Called again, finished cells are taken over, an
interrupted one is resumed, and one whose config has changed is trained again from scratch.

The table, mean and sample standard deviation over the seeds of the last validation, goes to
WORK_DIR/comparison.md, every single number to WORK_DIR/comparison.csv.
"""

import argparse
import copy
import csv
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from plot_logs import find_key, logged_keys, read_run

_ROOT = Path(__file__).resolve().parents[1]
if (_ROOT / 'carafe_plugin').is_dir():  # a checkout, installed or not
    sys.path.insert(0, str(_ROOT))

import carafe_plugin  # noqa: E402
from carafe_plugin.engine.errors import UserError, run_command  # noqa: E402
from carafe_plugin.engine.launch import read_config  # noqa: E402
from carafe_plugin.engine.preflight import check_config  # noqa: E402

TRAIN = Path(__file__).with_name('train.py')
SUFFIXES = ('', '_50', '_75', '_s', '_m', '_l')
DEFAULT_METRICS = ('bbox_mAP', *(f'segm_mAP{suffix}' for suffix in SUFFIXES), 'mIoU')
STATES = {
    'finished': 'finished earlier, taken over',
    'resumed': 'interrupted, goes on',
    'changed': 'its config has changed: starts again, the old run is kept beside it',
    'new': 'starts',
}
PACKAGES = ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmsegmentation')


@dataclass
class Cell:
    """One training run of the comparison."""

    upsampler: str
    seed: int
    folder: Path
    config: str

    @property
    def config_file(self) -> Path:
        # Beside the folder: into the folder the Runner writes a copy of its own, under the same name.
        return self.folder.with_suffix('.py')

    @property
    def result_file(self) -> Path:
        return self.folder / 'result.json'

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.config.encode()).hexdigest()[:16]


def set_upsampler(node: object, name: str) -> int:
    """Set every ``upsample_cfg`` in a config's model, in place, and count them.

    Arguments of the config's own ``upsample_cfg`` stay where its type is ``name`` already. One without
    a type is left alone: it is an argument of MMDetection's own FPN, meant for ``F.interpolate``.

    Args:
        node: the model's dict, or any part of it.
        name: registered name of an upsampler, or 'stock'.
    """
    if isinstance(node, (list, tuple)):
        return sum(set_upsampler(child, name) for child in node)
    if not isinstance(node, dict):
        return 0
    count = 0
    for key, child in node.items():
        if key != 'upsample_cfg':
            count += set_upsampler(child, name)
        elif child is None or 'type' in child:
            count += 1
            if name == 'stock':
                node[key] = None
            elif child is None or child['type'] != name:
                node[key] = dict(type=name)
    return count


def budget(cfg: Config) -> tuple[int, str]:
    """Length of the training and what it counts in, 'epoch' or 'iteration'."""
    if cfg.train_cfg.get('max_epochs'):
        return cfg.train_cfg.max_epochs, 'epoch'
    return cfg.train_cfg.max_iters, 'iteration'


def cell_config(cfg: Config, upsampler: str, seed: int) -> Config:
    """The config that one cell trains."""
    cfg = copy.deepcopy(cfg)
    set_upsampler(cfg.model, upsampler)
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}
    if budget(cfg)[1] == 'iteration':  # else the log says epoch 0 of every validation
        hooks = cfg.setdefault('default_hooks', {})
        logger = {'type': 'LoggerHook', **hooks.get('logger', {})}
        hooks['logger'] = {**logger, 'log_metric_by_epoch': False}
    return cfg


def check(cfg: Config, upsamplers: list[str]) -> None:
    """Look at the data, and build the model once with each upsampler, before any training.

    Raises:
        UserError: The data is not there, the model has no ``upsample_cfg``, or one of its hosts
            refuses an upsampler, which is named.
    """
    if not set_upsampler(copy.deepcopy(cfg.model), 'stock'):
        raise UserError(f'{cfg.filename}: its model has no upsample_cfg to set')
    check_config(cfg, ('train', 'val'))
    for name in upsamplers:
        try:
            check_config(cell_config(cfg, name, seed=0), ())
        except Exception as error:  # whatever a host's constructor raises
            raise UserError(f'upsampler {name!r} does not fit: {error}') from error


def prepare(cell: Cell) -> str:
    """Bring the cell's folder into the state from which it is to be trained.

    Returns:
        'finished', 'resumed', 'changed' (there was a run of another config, now renamed) or 'new'.

    Raises:
        UserError: The folder holds something that is not a cell.
    """
    state = 'new'
    if cell.config_file.exists():
        if cell.config_file.read_text() == cell.config:
            if cell.result_file.exists() and read_result(cell)['config_hash'] == cell.hash:
                return 'finished'
            return 'resumed' if any(cell.folder.glob('*.pth')) else 'new'
        if cell.folder.exists():
            # Hours of training may stand behind it: moved out of the way, never removed.
            now = datetime.datetime.now().strftime('%Y%m%d_%H%M%S')
            cell.folder.rename(cell.folder.with_name(f'{cell.folder.name}.until-{now}'))
            state = 'changed'
    elif cell.folder.exists() and any(cell.folder.iterdir()):
        raise UserError(f'{cell.folder} holds something else than a cell of a comparison; remove it')
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(cell.config_file, cell.config)
    return state


def train(cell: Cell, resume: bool, end: int) -> dict:
    """Train a cell to its end and write down its result.

    Args:
        cell: The cell, its folder prepared.
        resume: Go on from its last checkpoint.
        end: Epoch or iteration of the last validation.

    Raises:
        UserError: The training failed, or ended without a validation.
    """
    command = [sys.executable, str(TRAIN), str(cell.config_file), '--work-dir', str(cell.folder)]
    start = time.monotonic()
    code = subprocess.run(command + ['--resume'] * resume).returncode
    if code:
        raise UserError(f'training of {cell.folder} failed with exit code {code}')
    try:
        _, val, unit = read_run(cell.folder)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not val or val[-1]['step'] != end:
        raise UserError(f'{cell.folder}: no validation at {unit} {end}; remove it to train again')
    result = dict(
        upsampler=cell.upsampler,
        seed=cell.seed,
        config_hash=cell.hash,
        metrics={key: val[-1][key] for key in logged_keys(val[-1:])},
        seconds=round(time.monotonic() - start, 1),
        resumed=resume,
        machine=machine(),
        versions=versions(),
    )
    write_atomically(cell.result_file, json.dumps(result, indent=2) + '\n')
    return result


def read_result(cell: Cell) -> dict:
    """The result of a finished cell."""
    return json.loads(cell.result_file.read_text())


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either there as a whole or not at all."""
    part = path.with_name(path.name + '.part')
    part.write_text(text)
    os.replace(part, path)


def machine() -> str:
    """The GPU, or the CPU and the number of cores that this process may use."""
    if torch.cuda.is_available():
        return f'{torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{names[0] if names else platform.processor() or platform.machine()}, {cores} cores'


def versions() -> str:
    """Versions of what a result depends on."""
    found = [f'Python {platform.python_version()}', f'carafe_plugin {carafe_plugin.__version__}']
    for package in PACKAGES:
        try:
            found.append(f'{package} {importlib.metadata.version(package)}')
        except importlib.metadata.PackageNotFoundError:
            continue
    return ', '.join(found)


def choose_metrics(results: list[dict], names: list[str] | None) -> list[str]:
    """Full keys of the metrics to tabulate: those named, else the usual ones, else all.

    Raises:
        UserError: A named metric was not logged.
    """
    keys = list(results[0]['metrics'])
    if names is None:
        return [key for name in DEFAULT_METRICS if (key := find_key(name, keys))] or keys
    chosen = {name: find_key(name, keys) for name in names}
    for name, key in chosen.items():
        if key is None:
            raise UserError(f'no metric {name!r}; there are: {", ".join(keys)}')
    return list(chosen.values())


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for the spread of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def markdown(results: list[dict], metrics: list[str], facts: dict[str, str]) -> str:
    """The table, one row per upsampler, under a list of facts about the runs."""
    rows = [['upsampler', 'n', *(key.split('/')[-1] for key in metrics)]]
    for name in dict.fromkeys(r['upsampler'] for r in results):
        of_name = [r['metrics'] for r in results if r['upsampler'] == name]
        row = [name, str(len(of_name))]
        for key in metrics:
            mean, spread = mean_and_spread([metric[key] for metric in of_name])
            text = f'{mean:.3f}' if spread is None else f'{mean:.3f} ± {spread:.3f}'
            row.append('-' if mean == -1 else text)  # COCO's AP where there are no such objects
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + ' |' for row in rows]
    lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
    return '\n'.join([*(f'- {k}: {v}' for k, v in facts.items()), '', *lines, ''])


def write_csv(path: Path, results: list[dict], facts: dict[str, str]) -> None:
    """Write every metric of every cell and each upsampler's mean and spread; facts as comments."""
    keys = list(results[0]['metrics'])
    with open(path, 'w', newline='') as file:
        file.writelines(f'# {k}: {v}\n' for k, v in facts.items())
        writer = csv.writer(file)
        writer.writerow(['upsampler', 'seed', *keys])
        for r in results:
            writer.writerow([r['upsampler'], r['seed'], *(r['metrics'][key] for key in keys)])
        for name in dict.fromkeys(r['upsampler'] for r in results):
            of_name = [r['metrics'] for r in results if r['upsampler'] == name]
            columns = [mean_and_spread([metric[key] for metric in of_name]) for key in keys]
            writer.writerow([name, 'mean', *(f'{mean:.6g}' for mean, _ in columns)])
            writer.writerow([name, 'std', *('' if s is None else f'{s:.6g}' for _, s in columns)])


def facts_of(results: list[dict], argv: list[str], end: str) -> dict[str, str]:
    """What a reader must know about the runs behind the table."""
    seconds = sum(r['seconds'] for r in results)
    resumed = sum(r['resumed'] for r in results)
    note = f' (without the time before the interruption of {resumed})' if resumed else ''
    return {
        'command': f'`python tools/compare.py {shlex.join(argv)}`',
        'numbers': f'validation at {end}, mean ± sample standard deviation over n seeds',
        'date': datetime.date.today().isoformat(),
        'wall time': f'{seconds / 60:.1f} min of training, {len(results)} in all{note}',
        'machine': '; '.join(dict.fromkeys(r['machine'] for r in results)),
        'versions': '; '.join(dict.fromkeys(r['versions'] for r in results)),
    }


def parse_args(argv: list[str]) -> argparse.Namespace:
    paragraphs = __doc__.split('\n\n', 1)
    parser = argparse.ArgumentParser(
        description=paragraphs[0],
        epilog=paragraphs[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config whose model has upsample_cfg fields')
    parser.add_argument(
        '--upsamplers', required=True, type=lambda s: list(dict.fromkeys(s.split(','))),
        metavar='A,B', help='names of upsamplers; stock for the operator of the stock class',
    )  # fmt: skip
    parser.add_argument(
        '--seeds', default=[0], type=lambda s: list(dict.fromkeys(map(int, s.split(',')))),
        metavar='0,1', help='default: 0',
    )  # fmt: skip
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare/CONFIG')
    parser.add_argument('--metrics', nargs='+', help='columns of the table, such as segm_mAP')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='key=value, merged into the config'
    )
    return parser.parse_args(argv)


def compare(argv: list[str] | None) -> None:
    """Run what is left of the comparison and write its table."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    cfg = read_config(args.config, args.cfg_options)
    check(cfg, args.upsamplers)
    work_dir = args.work_dir or Path('work_dirs', 'compare', Path(args.config).stem)
    end, unit = budget(cfg)
    cells = [
        Cell(name, seed, work_dir / name / f'seed{seed}', cell_config(cfg, name, seed).pretty_text)
        for name in args.upsamplers
        for seed in args.seeds
    ]
    results = []
    for i, cell in enumerate(cells, start=1):
        state = prepare(cell)
        title = f'cell {i} of {len(cells)}: {cell.upsampler}, seed {cell.seed}'
        print(f'{title} ({cell.folder}) {STATES[state]}', flush=True)
        done = state == 'finished'
        results.append(read_result(cell) if done else train(cell, state == 'resumed', end))
        choose_metrics(results, args.metrics)  # a misspelt one is told after the first cell, not the last

    facts = facts_of(results, argv, f'{unit} {end}')
    write_csv(work_dir / 'comparison.csv', results, facts)
    text = markdown(results, choose_metrics(results, args.metrics), facts)
    write_atomically(work_dir / 'comparison.md', text)
    print(f'\n{text}\n-> {work_dir / "comparison.md"}, comparison.csv')


def main(argv: list[str] | None = None) -> None:
    try:
        run_command(compare, argv)
    except KeyboardInterrupt:
        sys.exit('interrupted; the same command goes on from here')


if __name__ == '__main__':
    # Turned into an exception, so that a terminated comparison takes its training with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
