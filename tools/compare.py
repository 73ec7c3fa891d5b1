# SPDX-License-Identifier: Apache-2.0
"""Train configs with several upsamplers and seeds, equal budget each, and tabulate results and costs.

With --upsamplers, every upsample_cfg of a config's model, or of its parts named by --within, is set
to the upsampler's name; the word "stock" sets it to None, the operator of the stock class. A config
with an upsampler is a variant, a row of the table; a variant with a seed is a cell, trained by
tools/train.py in WORK_DIR/VARIANT/seedK. Called again, finished cells are taken over, an interrupted
one is resumed, and one whose config has changed is trained again from scratch.

WORK_DIR/comparison.md has the table: mean and sample standard deviation over the seeds of the last
validation, and for the weights of the first seed parameters, multiply-adds of a forward pass over the
first validation image of the first config, and the median time of an image. comparison.csv has every
single number, comparison.png the first metric against the time.
"""

import argparse
import copy
import datetime
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from carafe_tools.options import DictAction


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    paragraphs = __doc__.split('\n\n', 1)
    parser = argparse.ArgumentParser(
        description=paragraphs[0],
        epilog=paragraphs[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files that train equally long')
    parser.add_argument(
        '--upsamplers', type=lambda s: list(dict.fromkeys(s.split(','))), metavar='A,B',
        help='names of upsamplers, stock for the operator of the stock class; default: each config as it is',
    )  # fmt: skip
    parser.add_argument(
        '--seeds', default=[0], type=lambda s: list(dict.fromkeys(map(int, s.split(',')))),
        metavar='0,1', help='default: 0',
    )  # fmt: skip
    parser.add_argument(
        '--within', nargs='+', default=[''], metavar='PART',
        help='parts of the model, such as neck or roi_head.mask_head; default: all of it',
    )  # fmt: skip
    parser.add_argument('--gpus', type=int, default=1, help='processes of each training (default: 1)')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare/CONFIG, the first one')
    parser.add_argument('--metrics', nargs='+', help='columns of the table, such as segm_mAP')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='key=value, merged into the config'
    )
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import torch
from mmengine.config import Config
from mmengine.device import get_device

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.env import machine, versions
from carafe_plugin.runtime.checkpoint import find_resumable
from carafe_plugin.runtime.errors import UserError, notice
from carafe_tools import model_cost
from carafe_tools.cells import (
    Cell,
    budget,
    cell_config,
    finished_checkpoint,
    prepare,
    read_result,
    set_within,
)
from carafe_tools.command import run_command
from carafe_tools.comparison import markdown, metric_keys, plot, write_csv
from carafe_tools.files import write_atomically
from carafe_tools.launch import read_config
from carafe_tools.preflight import check_config
from plot_logs import TIMES, find_key, logged_keys, read_run

TRAIN, TEST = (Path(__file__).with_name(f'{name}.py') for name in ('train', 'test'))
SUFFIXES = ('', '_50', '_75', '_s', '_m', '_l')
DEFAULT_METRICS = ('bbox_mAP', *(f'segm_mAP{suffix}' for suffix in SUFFIXES), 'mIoU', 'mBIoU')
COST_IMAGES = 20
STATES = {
    'finished': 'finished earlier, taken over',
    'resumed': 'interrupted, goes on',
    'changed': 'its config has changed: starts again, the old run is kept beside it',
    'new': 'starts',
}


def make_variants(
    configs: dict[str, Config], upsamplers: list[str] | None, within: list[str]
) -> dict[str, Config]:
    """The config of each variant by its name: that of the upsampler, of the config file, or both.

    Raises:
        UserError: A config has no ``upsample_cfg`` to set, two variants have one name, or they differ in
            the length of their training.
    """
    variants = {}
    for file, base in configs.items():
        for upsampler in upsamplers or ['']:
            stem = Path(file).stem if len(configs) > 1 or not upsampler else ''
            name = '-'.join(filter(None, (stem, upsampler)))
            if name in variants:
                raise UserError(f'two variants are called {name}: rename one of the config files')
            cfg = variants[name] = copy.deepcopy(base)
            if upsampler and not set_within(cfg.model, upsampler, within):
                raise UserError(f'{file}: its model has no upsample_cfg to set')
    budgets = {file: budget(cfg) for file, cfg in configs.items()}
    if len(set(budgets.values())) > 1:
        told = ', '.join(f'{file} for {end} {unit}s' for file, (end, unit) in budgets.items())
        raise UserError(f'the configs must train equally long, got {told}')
    return variants


def check(configs: dict[str, Config], variants: dict[str, Config]) -> None:
    """Look at the data of each config, and build the model of each variant once, before any training.

    Raises:
        UserError: The data is not there, or a model cannot be built; its variant is named.
    """
    for cfg in configs.values():
        check_config(cfg, ('train', 'val'))
    for name, cfg in variants.items():
        try:
            check_config(cfg, ())
        except Exception as error:  # whatever a host's constructor raises
            raise UserError(f'{name} does not fit: {error}') from error


def train(cell: Cell, resume: bool, end: int, unit: str, gpus: int) -> dict:
    """Train a cell to its end and write down its result.

    Args:
        cell: The cell, its folder prepared.
        resume: Go on from its last checkpoint.
        end: Epoch or iteration of the last validation.
        unit: Which of both, 'epoch' or 'iteration'.
        gpus: Processes to train in.

    Raises:
        UserError: The training failed, or ended without a validation or a metric.
    """
    start = time.monotonic()
    # A kill during the last validation leaves a run that has nothing left to train.
    if not (resume and finished_checkpoint(cell, end, unit)):
        command = [str(TRAIN), str(cell.config_file), '--work-dir', str(cell.folder), *['--resume'] * resume]
        if gpus > 1:
            launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={gpus}']
            command = [*launch, *command, '--launcher', 'pytorch']
        run(command, f'training of {cell.folder}')
    try:
        _, val, _ = read_run(cell.folder)
    except ValueError as error:
        raise UserError(str(error)) from error
    if val and val[-1]['step'] == end:
        metrics = {key: val[-1][key] for key in logged_keys(val[-1:])}
    else:
        metrics = validate(cell, end, unit)
    if not metrics:  # mmdet's COCO metric of a detector that finds nothing
        notice(
            f'{cell.folder}: the validation at {unit} {end} found nothing to score, so the table has a dash '
            'there; longer training or a lower score threshold may give it something'
        )
    result = dict(
        variant=cell.variant,
        seed=cell.seed,
        config_hash=cell.hash,
        metrics=metrics,
        seconds=round(time.monotonic() - start, 1),
        resumed=resume,
        machine=machine(),
        versions=versions(),
    )
    write_atomically(cell.result_file, json.dumps(result, indent=2) + '\n')
    return result


def validate(cell: Cell, end: int, unit: str) -> dict[str, float]:
    """Evaluate the last checkpoint of a trained cell by tools/test.py on the validation data.

    Raises:
        UserError: There is no checkpoint of the end of the training, or the evaluation failed.
    """
    checkpoint = finished_checkpoint(cell, end, unit)
    if checkpoint is None:
        raise UserError(f'{cell.folder}: no validation at {unit} {end}; remove it to train again')
    cfg = Config.fromfile(cell.config_file)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.setdefault('test_cfg', dict(type='TestLoop'))
    folder = cell.folder / 'validation'
    folder.mkdir(exist_ok=True)
    cfg.dump(folder / 'config.py')
    command = [str(TEST), str(folder / 'config.py'), str(checkpoint), '--work-dir', str(folder)]
    run(command, f'validation of {cell.folder}')
    file = max(folder.glob('*/*.json'), key=lambda file: file.stat().st_mtime_ns)
    metrics = json.loads(file.read_text())
    return {key: value for key, value in metrics.items() if key not in TIMES}


def run(command: list[str], what: str) -> None:
    """Call one of the tools.

    Raises:
        UserError: It failed.
    """
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code:
        raise UserError(f'{what} failed with exit code {code}')


def measure_costs(cells: list[Cell]) -> dict[str, model_cost.Cost]:
    """Cost of each variant's model with the weights of its first seed, all in turns."""
    models, images = {}, []
    for cell in cells:
        checkpoint, _ = find_resumable(cell.folder)
        if cell.variant in models or checkpoint is None:  # finished, then removed by its owner
            continue
        cfg = Config.fromfile(cell.config_file)
        models[cell.variant] = model_cost.load_model(cfg, checkpoint)
        images = images or model_cost.validation_images(cfg, COST_IMAGES)
    return model_cost.costs(models, images) if models else {}


def choose_metrics(results: list[dict], names: list[str] | None) -> list[str]:
    """Full keys of the metrics to tabulate: those named, else the usual ones, else all.

    Raises:
        UserError: A named metric was not logged.
    """
    keys = metric_keys(results)
    if names is None:
        return [key for name in DEFAULT_METRICS if (key := find_key(name, keys))] or keys
    if not keys:  # no run has found anything yet
        return []
    chosen = {name: find_key(name, keys) for name in names}
    for name, key in chosen.items():
        if key is None:
            raise UserError(f'no metric {name!r}; there are: {", ".join(keys)}')
    return list(chosen.values())


def facts_of(results: list[dict], argv: list[str], end: str, device: str) -> dict[str, str]:
    """What a reader must know about the runs behind the table."""
    seconds = sum(r['seconds'] for r in results)
    resumed = sum(r['resumed'] for r in results)
    note = f' (without the time before the interruption of {resumed})' if resumed else ''
    return {
        'command': f'`python tools/compare.py {shlex.join(argv)}`',
        'numbers': f'validation at {end}, mean ± sample standard deviation over n seeds',
        'cost': f'weights of the first seed; time of one image on {device}, median of {COST_IMAGES}, '
        f'{torch.get_num_threads()} threads, pre- and post-processing included',
        'date': datetime.date.today().isoformat(),
        'wall time': f'{seconds / 60:.1f} min of training, {len(results)} in all{note}',
        'machine': '; '.join(dict.fromkeys(r['machine'] for r in results)),
        'versions': '; '.join(dict.fromkeys(r['versions'] for r in results)),
    }


def compare(argv: list[str] | None) -> None:
    """Run what is left of the comparison and write its table."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    configs = {file: read_config(file, args.cfg_options) for file in args.configs}
    variants = make_variants(configs, args.upsamplers, args.within)
    check(configs, variants)
    work_dir = args.work_dir or Path('work_dirs', 'compare', Path(args.configs[0]).stem)
    end, unit = budget(next(iter(variants.values())))
    cells = []
    for name, cfg in variants.items():
        for seed in args.seeds:
            text = cell_config(cfg, seed).pretty_text
            cells.append(Cell(name, seed, work_dir / name / f'seed{seed}', text))
    results = []
    for i, cell in enumerate(cells, start=1):
        state = prepare(cell)
        title = f'cell {i} of {len(cells)}: {cell.variant}, seed {cell.seed}'
        print(f'{title} ({cell.folder}) {STATES[state]}', flush=True)
        done = state == 'finished'
        results.append(read_result(cell) if done else train(cell, state == 'resumed', end, unit, args.gpus))
        choose_metrics(results, args.metrics)  # a misspelt one is told after the first cell, not the last

    metrics = choose_metrics(results, args.metrics)
    costs = measure_costs(cells)
    facts = facts_of(results, argv, f'{unit} {end}', get_device())
    write_csv(work_dir / 'comparison.csv', results, facts, costs)
    text = markdown(results, metrics, facts, costs)
    write_atomically(work_dir / 'comparison.md', text)
    files = [f'{work_dir / "comparison.md"}', 'comparison.csv']
    if metrics:
        plot(work_dir / 'comparison.png', results, metrics[0], costs, f'validation at {unit} {end}')
        files.append('comparison.png')
    print(f'\n{text}\n-> {", ".join(files)}')


def main(argv: list[str] | None = None) -> None:
    try:
        run_command(compare, argv)
    except KeyboardInterrupt:
        sys.exit('interrupted; the same command goes on from here')


if __name__ == '__main__':
    # Turned into an exception, so that a terminated comparison takes its training with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
