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

from carafe_tools.benchmark_options import SIZES, parse_args, registered, set_ups

if __name__ == '__main__':
    parse_args(sys.argv[1:])  # --help and mistakes are answered before torch is loaded

import torch

from carafe_plugin.env import installed, machine, versions
from carafe_plugin.ops import _native
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
        rows += models.measure_upsamplers(args.upsamplers or registered(), size, args.device, args.seconds)
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
    setups = args.setups or set_ups()
    about = facts(args, argv, timing.load()) | {
        f'source of {name}': f'{published.SETUPS[name].source}, on an {published.SETUPS[name].gpu}'
        for name in setups
    }
    rows, failed = [], []
    for name in timing.progress(setups, 'set-ups'):
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
    threads = args.threads or scaling.powers_of_two(torch.get_num_threads())
    about = facts(args, argv, timing.load()) | {
        'threads': ', '.join(map(str, threads)),
        'shapes': ', '.join(f'{s} {"x".join(map(str, SIZES[s]))}' for s in scaling.SIZES),
        'detector': f'{args.config}, one random image of {width} x {height}, no optimizer step',
    }
    runs, failed = scaling.operator_runs(), []
    try:
        model = models.model_runs(args.config, args.image_size, 1, 'cpu')
        runs['detector, training step'] = model['training step']
    except models.ModelError as error:  # no OpenMMLab here
        failed.append(dict(what='detector, training step', threads=None, failed=str(error)))
    rows, lost = scaling.measure_scaling(runs, threads, args.seconds)
    tables = {'Times': _spaced(rows), 'Did not run': failed + lost}
    text = report.document('Over CPU threads', about, tables)
    content = dict(facts=about, results=rows, failed=failed + lost)
    say(text, report.write(args.out, 'scaling', content, text))


def run_export(args: argparse.Namespace, argv: Sequence[str]) -> None:
    about = facts(args, argv, timing.load()) | {
        'threads': ', '.join(map(str, args.threads)),
        'shapes': ', '.join(f'{s} {"x".join(map(str, SIZES[s]))}' for s in args.sizes),
        'runtimes': installed(export_cases.RUNTIMES),
        'of native': 'relative to PyTorch with the native operator and as many threads',
        'difference': 'from PyTorch, relative to the largest value',
    }
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        layer = export_cases.ExportedLayer(Path(folder), channels=SIZES[args.sizes[0]][1])
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


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        sys.exit('error: --device cuda: torch finds no GPU here')
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
