#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Measure the operator, the upsamplers or a whole model, each against its peers in the same run.

op        the reassembly operator at the sizes of real networks, with the bars that it is held to
module    whole upsamplers, as they stand in an FPN
detector  inference and training step of a config on random data, without data loading
published upsamplers in the set-ups whose times other papers published
scaling   the operator and a detector's training step over numbers of CPU threads
export    a CARAFE layer in PyTorch and, exported, in onnxruntime and OpenVINO, on a CPU

Results go to the terminal and to OUT: a JSON file, a markdown table and, for `op`, `module` and `export`
where matplotlib is installed, a picture. These write theirs anew after every size. A detector needs
OpenMMLab, the exports need the runtimes, all else torch alone. docs/benchmark.md says how to read the
numbers.
"""

import argparse
import datetime
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.env import machine, versions
from carafe_plugin.ops import _native
from carafe_plugin.upsamplers import UPSAMPLERS
from carafe_tools import bars, export_cases, models, op_cases, published, report, scaling, timing


def facts(args: argparse.Namespace, argv: Sequence[str], load: float | None) -> dict[str, object]:
    """What a reader must know about a run."""
    why_not = _native.why_not(args.device)
    how = f'plain PyTorch: {why_not}' if why_not else 'native'
    if why_not is None and args.device == 'cpu':
        how = f'native, {torch.ops.carafe_plugin.cpu_capability()}'
    return {
        'command': f'`python tools/benchmark.py {shlex.join(argv)}`',
        'date': datetime.date.today().isoformat(),
        'machine': machine(args.device),
        'threads': torch.get_num_threads(),
        'operator': how,
        'versions': versions(),
        'load before': load,
        'times': f'medians; above {timing.NOISE_LIMIT:g} times the minimum they are not judged',
    }


def ceilings(device: str, dtypes: list[str]) -> dict[str, float]:
    """What this machine reaches at most: GB/s of a large copy, GFLOP/s of a matrix product by dtype.

    A CPU's 16-bit products may be emulated (minutes) or run on units of their own, which no kernel here uses.
    """
    dtypes = dtypes if device == 'cuda' else ['float32']
    elements, side = (1 << 28, 8192) if device == 'cuda' else (1 << 26, 2048)
    source, target = (torch.ones(elements, device=device) for _ in range(2))
    cases: dict[str, Callable] = {'copy': lambda: target.copy_(source)}
    for dtype in dtypes:
        matrix = torch.randn(side, side, device=device).to(op_cases.DTYPES[dtype])
        cases[dtype] = lambda m=matrix: m @ m
    measured, _ = timing.measure(cases, device, seconds=0.5)
    best = {name: t.minimum / 1e3 for name, t in measured.items()}
    result = {'copy_GB_s': 8 * elements / best['copy'] / 1e9}
    return result | {f'matmul_{d}_GFLOP_s': 2 * side**3 / best[d] / 1e9 for d in dtypes if d in best}


def op_rows(size: str, cases: dict, result: dict, ceiling: dict[str, float], dtypes: list[str]) -> list[dict]:
    """The measured cases of one size."""
    rows = []
    for name, case in cases.items():
        row = dict(size=size, case=name)
        if name in result['failed']:
            rows.append(row | dict(failed=result['failed'][name]))
            continue
        t = result['timings'][name]
        dtype = next((d for d in dtypes[1:] if name.endswith(d)), dtypes[0])
        peak = ceiling.get(f'matmul_{dtype}_GFLOP_s') or ceiling.get('matmul_float32_GFLOP_s')
        row |= t.summary() | dict(bytes=case.bytes, flops=case.flops, peak_bytes=result['memory'].get(name))
        row['of_copy'] = round(case.bytes / t.median / 1e6 / ceiling['copy_GB_s'], 4) if case.bytes else None
        row['of_matmul'] = round(case.flops / t.median / 1e6 / peak, 4) if case.flops and peak else None
        rows.append(row)
    return rows


def measure_size(size: str, cases: dict, device: str, seconds: float) -> dict:
    """Times of all cases at one size, peak memory of those that matter, and scratch of a thread."""
    graph = device == 'cuda' and size in op_cases.GRAPH_AT
    runs = {name: case.run for name, case in cases.items()}
    timings, failed = timing.measure(runs, device, seconds, graph=graph)
    memory = {
        name: timing.peak_memory(case.run, device)
        for name, case in cases.items()
        if name in timings
        and name.split()[-1] in ('forward', 'backward', 'step', *op_cases.FORMS, 'compiled')
    }
    scratch = None
    if device == 'cpu' and 'cpu' in _native.loaded and memory['forward'] is not None:
        own = ('forward', 'backward', 'fused forward', 'fused backward')
        scratch = max(memory[name] - cases[name].outputs for name in own) / torch.get_num_threads()
    return dict(timings=timings, failed=failed, memory=memory, scratch=scratch)


def run_op(args: argparse.Namespace, argv: Sequence[str]) -> None:
    load, name = timing.load(), 'op'
    ceiling = ceilings(args.device, args.dtypes)
    about = facts(args, argv, load) | {
        'shapes': ', '.join(
            f'{s} {"x".join(map(str, op_cases.shape_of(s, args.device)))}' for s in args.sizes
        ),
        'sizes of the operator': f'k={op_cases.KERNEL}, G={op_cases.GROUPS}, s={op_cases.SCALE}',
        'ceilings': ', '.join(f'{k} {v:.0f}' for k, v in ceiling.items()),
    }
    if args.device == 'cuda':
        about['peer'] = op_cases.peer()[1]
    results, rows = {}, []
    for size in timing.progress(args.sizes, 'sizes'):
        forms = size == op_cases.FORMS_AT and not args.no_forms
        cases = op_cases.make_cases(size, args.device, args.dtypes, forms)
        results[size] = measure_size(size, cases, args.device, args.seconds)
        rows += op_rows(size, cases, results[size], ceiling, args.dtypes)
        del cases
        verdicts = bars.judge_all(args.device, results)
        tables = {'Bars': verdicts, 'Times': [_shown(row) for row in rows if 'failed' not in row]}
        tables['Did not run'] = [row for row in rows if 'failed' in row]
        text = report.document(f'The operator on {args.device}', about, tables)
        content = dict(facts=about, ceilings=ceiling, bars=verdicts, results=rows)
        paths = report.write(args.out, name, content, text)  # a run cut short leaves what it measured
    finish(args.out, name, paths, text, report.draw_bars, verdicts, about)


def _shown(row: dict) -> dict:
    """A row of JSON as the table shows it."""
    percent = {
        key: None if row[key] is None else f'{row[key]:.0%}' for key in ('spread', 'of_copy', 'of_matmul')
    }
    peak = row['peak_bytes']
    return {
        'size': row['size'],
        'case': row['case'],
        'median ms': row['median_ms'],
        'min ms': row['min_ms'],
        'spread': percent['spread'] + (' noisy' if row['noisy'] else ''),
        'page faults': row['page_faults'],
        'of copy': percent['of_copy'],
        'of matmul': percent['of_matmul'],
        'peak MB': None if peak is None else peak / 1e6,
    }


def run_module(args: argparse.Namespace, argv: Sequence[str]) -> None:
    about = facts(args, argv, timing.load()) | {'guide': 'a map of the doubled size, for those that need one'}
    rows = []
    for size in timing.progress(args.sizes, 'sizes'):
        rows += models.measure_upsamplers(args.upsamplers, size, args.device, args.seconds)
        good = [row for row in rows if 'failed' not in row]
        tables = {'Upsamplers': _spaced(good), 'Did not run': [row for row in rows if 'failed' in row]}
        text = report.document(f'Upsamplers on {args.device}', about, tables)
        paths = report.write(args.out, 'module', dict(facts=about, results=rows), text)
    finish(args.out, 'module', paths, text, report.draw_times, good, about)


def _spaced(rows: Sequence[dict]) -> list[dict]:
    """Rows of JSON as a table shows them."""
    return [{key.replace('_', ' '): value for key, value in row.items()} for row in rows]


def run_detector(args: argparse.Namespace, argv: Sequence[str]) -> None:
    load = timing.load()
    rows = models.measure_model(args.config, args.image_size, args.batch, args.device, args.seconds)
    about = facts(args, argv, load) | {
        'config': args.config,
        'data': f'{args.batch} random images of {args.image_size[1]} x {args.image_size[0]} in memory; '
        'no data loading, no optimizer step',
    }
    text = report.document(f'{Path(args.config).stem} on {args.device}', about, {'Times': rows})
    say(text, report.write(args.out, 'detector', dict(facts=about, results=rows), text))


def run_published(args: argparse.Namespace, argv: Sequence[str]) -> None:
    about = facts(args, argv, timing.load()) | {
        f'source of {name}': f'{published.SETUPS[name].source}, on an {published.SETUPS[name].gpu}'
        for name in args.setups
    }
    rows, failed = [], []
    for name in timing.progress(args.setups, 'set-ups'):
        measured, lost = published.measure_setup(name, args.device, args.seconds)
        rows, failed = rows + measured, failed + lost
        report.append_csv(args.csv, published.csv_rows(measured, about))
    text = report.document(
        f'Forward of upsamplers in published set-ups, on {args.device}',
        about,
        {'Times': _spaced(rows), 'Did not run': failed},
    )
    content = dict(facts=about, results=rows, failed=failed)
    say(text, [*report.write(args.out, 'published', content, text), args.csv])


def run_scaling(args: argparse.Namespace, argv: Sequence[str]) -> None:
    height, width = args.image_size
    about = facts(args, argv, timing.load()) | {
        'threads': ', '.join(map(str, args.threads)),
        'shapes': ', '.join(f'{s} {"x".join(map(str, op_cases.SIZES[s]))}' for s in scaling.SIZES),
        'detector': f'{args.config}, one random image of {width} x {height}, no optimizer step',
    }
    runs, failed = scaling.operator_runs(), []
    try:
        model = models.model_runs(args.config, args.image_size, 1, 'cpu')
        runs['detector, training step'] = model['training step']
    except models.ModelError as error:  # no OpenMMLab here
        failed.append(dict(what='detector, training step', threads=None, failed=str(error)))
    rows, lost = scaling.measure_scaling(runs, args.threads, args.seconds)
    tables = {'Times': _spaced(rows), 'Did not run': failed + lost}
    text = report.document('Over CPU threads', about, tables)
    content = dict(facts=about, results=rows, failed=failed + lost)
    say(text, report.write(args.out, 'scaling', content, text))


def run_export(args: argparse.Namespace, argv: Sequence[str]) -> None:
    about = facts(args, argv, timing.load()) | {
        'threads': ', '.join(map(str, args.threads)),
        'shapes': ', '.join(f'{s} {"x".join(map(str, op_cases.SIZES[s]))}' for s in args.sizes),
        'runtimes': export_cases.versions(),
        'of native': 'relative to PyTorch with the native operator and as many threads',
        'difference': 'from PyTorch, relative to the largest value',
    }
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        layer = export_cases.ExportedLayer(Path(folder), channels=op_cases.SIZES[args.sizes[0]][1])
        for size in timing.progress(args.sizes, 'sizes'):
            measured, lost = export_cases.measure_export(layer, size, args.threads, args.seconds)
            rows, failed = rows + measured, failed + lost
            tables = {'Times': _spaced(rows), 'Did not run': failed}
            text = report.document('A CARAFE layer, exported', about, tables)
            paths = report.write(args.out, 'export', dict(facts=about, results=rows, failed=failed), text)
    finish(args.out, 'export', paths, text, report.draw_runtimes, rows, about)


def finish(
    out: Path, name: str, paths: list[Path], text: str, draw: Callable, rows: list, about: dict
) -> None:
    """Draw the picture, print the table and say where everything is."""
    picture = draw(
        rows, f'{about["machine"]}, {about["threads"]} threads, {about["operator"]}', out / f'{name}.png'
    )
    say(text, [*paths, *([picture] if picture else [])])


def say(text: str, paths: Sequence[Path]) -> None:
    print(text)
    print('->', ', '.join(map(str, paths)))


def names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Parser of a comma-separated list of known names; 'all' means every one."""

    def parse(text: str) -> list[str]:
        names = list(known) if text == 'all' else list(dict.fromkeys(text.split(',')))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f'unknown name {name!r}; known: {", ".join(known)}')
        return names

    return parse


def map_sizes(text: str) -> list[tuple[int, ...]]:
    sizes = []
    for part in text.split(','):
        try:
            size = tuple(map(int, part.split('x')))
        except ValueError:
            size = ()
        if len(size) != 4 or min(size) < 1:
            raise argparse.ArgumentTypeError(f'{part!r} is not NxCxHxW')
        sizes.append(size)
    return sizes


def thread_counts(text: str) -> list[int]:
    counts = text.split(',')
    if not all(count.isdecimal() and int(count) for count in counts):
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of numbers of threads')
    return sorted(set(map(int, counts)))


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument('--out', type=Path, help='default: work_dirs/benchmark/DEVICE')
    every.add_argument(
        '--seconds', type=float, default=0.6, help='for each alternative (default: %(default)s)'
    )
    common = argparse.ArgumentParser(add_help=False, parents=[every])
    common.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    op = commands.add_parser('op', parents=[common], help='the operator')
    op.add_argument(
        '--dtypes', type=names_of(list(op_cases.DTYPES)), metavar='A,B',
        help='the first one is compared in every form (default: float32,bfloat16, on cuda float16 too)',
    )  # fmt: skip
    op.add_argument(
        '--sizes', type=names_of(list(op_cases.SIZES)), metavar='A,B',
        help=f'of {", ".join(op_cases.SIZES)}, or all (default: those with bars)',
    )  # fmt: skip
    op.add_argument(
        '--no-forms', action='store_true', help='leave out the plain PyTorch forms (slow to compile)'
    )
    module = commands.add_parser('module', parents=[common], help='whole upsamplers')
    module.add_argument(
        '--upsamplers', type=names_of(list(UPSAMPLERS)), default=list(UPSAMPLERS), metavar='A,B',
        help='default: all that are registered',
    )  # fmt: skip
    module.add_argument(
        '--sizes', type=map_sizes, default=[(1, 256, 50, 84), (1, 256, 100, 168)], metavar='NxCxHxW,...'
    )
    detector = commands.add_parser('detector', parents=[common], help="a config's model")
    detector.add_argument('config')
    detector.add_argument('--image-size', type=int, nargs=2, default=(800, 1344), metavar=('H', 'W'))
    detector.add_argument('--batch', type=int, default=1)
    others = commands.add_parser('published', parents=[common], help='set-ups of other papers')
    others.add_argument(
        '--setups', type=names_of(list(published.SETUPS)), default=list(published.SETUPS), metavar='A,B',
        help=f'of {", ".join(published.SETUPS)} (default: all)',
    )  # fmt: skip
    others.add_argument('--csv', type=Path, help='table to add the rows to (default: OUT/published.csv)')
    threads = commands.add_parser('scaling', parents=[every], help='over CPU threads')
    threads.set_defaults(device='cpu')
    threads.add_argument(
        '--threads', type=thread_counts,
        metavar='1,2,...', help='default: powers of two up to those that torch takes',
    )  # fmt: skip
    threads.add_argument('--config', default='configs/coco/mask-rcnn_r50_fpn-carafe_1x_coco.py')
    threads.add_argument('--image-size', type=int, nargs=2, default=(480, 640), metavar=('H', 'W'))
    exports = commands.add_parser('export', parents=[every], help='runtimes that a layer is exported to')
    exports.set_defaults(device='cpu')
    exports.add_argument(
        '--threads', type=thread_counts, metavar='1,2,...', default=[1, 2], help='default: 1,2'
    )
    known = [size for size in op_cases.SIZES if not size.startswith('uper')]
    exports.add_argument(
        '--sizes', type=names_of(known), default=export_cases.SIZES, metavar='A,B',
        help=f'of {", ".join(known)} (default: {",".join(export_cases.SIZES)})',
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.command == 'scaling' and not args.threads:
        args.threads = scaling.powers_of_two(torch.get_num_threads())
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: torch finds no GPU here')
    if args.seconds <= 0:
        parser.error('--seconds must be above 0')
    if args.command == 'op' and args.sizes is None:
        args.sizes = op_cases.DEFAULT_SIZES[args.device]
    if args.command == 'op' and args.dtypes is None:
        args.dtypes = op_cases.DEFAULT_DTYPES[args.device]
    args.out = args.out or Path('work_dirs', 'benchmark', args.device)
    if args.command == 'published' and args.csv is None:
        args.csv = args.out / 'published.csv'
    return args


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    command = dict(
        op=run_op,
        module=run_module,
        detector=run_detector,
        published=run_published,
        scaling=run_scaling,
        export=run_export,
    )[args.command]
    os.environ.setdefault('CARAFE_CUDA_KERNELS', '1')  # to be measured before they are proven, too
    try:
        command(args, argv)
    except (models.ModelError, report.TableError, OSError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
