#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Prove and measure the CUDA operators on this machine: build, tests, sanitizers, benchmarks.

    PYTHON=... bash tools/gpu_check.sh [--dry-run] [STEP...]

Needs a GPU, nvcc, and a Python with torch, numpy, pytest and setuptools; pytest-xdist and pytest-timeout are
used where they are. Results go to benchmarks/<name of the GPU>/: check.json and check.md, written anew after
every step, beside what tools/benchmark.py writes. Where everything passed, the last line says what to add to
carafe_plugin/ops/_proven.py. Steps that only have to be right (peer, tests, sanitizers) run at the same time.

Environment: TORCH_CUDA_ARCH_LIST chooses other targets than this GPU's own. GPU_KIT names a folder with
mmcv-*.tar.gz (mmcv's source package) and peer.py, where `peer.py SDIST OUT` makes mmcv's carafe importable
from OUT as mmcv.ops, on a machine without mmcv. KEEP_LIBRARIES=1 takes the libraries that are there.
"""

import argparse
import datetime
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Where step `peer` leaves mmcv's operator.
PEER = ROOT / 'build' / 'peer'

STEPS = (
    *('build', 'environment', 'load', 'peer', 'tests', 'memcheck', 'racecheck', 'synccheck'),
    *('benchmark-op', 'benchmark-module', 'benchmark-published'),
)
#: Steps that run at the same time: their results count, not their times.
AT_ONCE = ('peer', 'tests', 'memcheck', 'racecheck', 'synccheck')
PASSED, FAILED, TIMED_OUT, UNFINISHED, NOT_RUN = 'passed', 'failed', 'timed out', 'unfinished', 'not run'

_running: set[subprocess.Popen] = set()

_ASK_GPU = """
import json, torch
p = torch.cuda.get_device_properties(0)
print(json.dumps({'gpu': p.name, 'capability': f'{p.major}.{p.minor}', 'torch': torch.__version__,
                  'CUDA of torch': torch.version.cuda}))
"""
# Where the library does not load, or is that of other sources, the tests would be skipped or prove nothing.
_LOAD = """
import os, sys
from carafe_plugin.ops import _native
why = _native.why_not('cuda')
if why is None and _native.cuda_sources() != sys.argv[1]:
    why = f'the library is built from {_native.cuda_sources()}, the sources are {sys.argv[1]}'
print(why or os.path.relpath(_native.loaded['cuda']))
sys.exit(why is not None)
"""


def commands(out: Path, sources: str) -> dict[str, list[str]]:
    """Every step and its command."""
    pytest = ['-m', 'pytest', '-p', 'no:cacheprovider']
    tests = [f'tests/ops/test_{name}.py' for name in ('native', 'registrations', 'cuda')]
    # Every family of kernels, small: the sanitizers slow them down a hundredfold.
    families = 'dtypes_and_layouts or nan_weight or many_channels'
    small = ['tests/ops/test_native.py', '-k', f'cuda and ({families})']
    sdists = sorted(Path(os.environ['GPU_KIT']).glob('mmcv-*.tar.gz')) if os.environ.get('GPU_KIT') else []
    peer = ['-c', 'import mmcv.ops; print(mmcv.ops.carafe)']
    if sdists:
        peer = [str(Path(os.environ['GPU_KIT'], 'peer.py')), str(sdists[-1]), str(PEER)]
    steps = {
        'build': ['setup.py', 'build_ext', '--inplace'],
        'environment': ['-m', 'carafe_plugin.env'],
        'load': ['-c', _LOAD, sources],
        'peer': peer,
        'tests': [*pytest, *tests, '-k', 'cuda', *plugin_options()],
    }
    steps = {name: [sys.executable, *arguments] for name, arguments in steps.items()}
    for tool in ('memcheck', 'racecheck', 'synccheck'):
        sanitizer = ['compute-sanitizer', '--tool', tool, '--error-exitcode', '9']
        steps[tool] = [*sanitizer, sys.executable, *pytest, *small]
    # Samples of a millisecond: 0.2 s are as many as are ever taken. The plain forms compile for minutes.
    benchmark = [sys.executable, 'tools/benchmark.py']
    for subject, options in (
        ('op', ['--no-forms']),
        ('module', []),
        ('published', ['--csv', 'benchmarks/published.csv']),
    ):
        common = ['--device', 'cuda', '--seconds', '0.2', '--out', str(out)]
        steps[f'benchmark-{subject}'] = [*benchmark, subject, *common, *options]
    return steps


def plugin_options() -> list[str]:
    """pytest's arguments for the plugins that are installed: several tests at once, none that hangs."""
    options = []
    if importlib.util.find_spec('xdist'):
        options += ['-n', str(min(8, os.cpu_count() or 1))]
    if importlib.util.find_spec('pytest_timeout'):
        options += ['--timeout', '120']
    return options


def environment() -> dict[str, str]:
    """What every step sees: this checkout, the peer, and CUDA kernels that are not proven yet."""
    paths = [str(ROOT), *([str(PEER)] if (PEER / 'mmcv' / '_ext.so').exists() else [])]
    paths += [os.environ['PYTHONPATH']] if os.environ.get('PYTHONPATH') else []
    switches = dict(CARAFE_NATIVE='1', CARAFE_CUDA='1', CARAFE_CUDA_KERNELS='1')
    return os.environ | switches | {'PYTHONPATH': os.pathsep.join(paths)}


def facts() -> dict[str, str] | None:
    """What a reader must know about this machine and this checkout; None without a GPU.

    A process of its own asks torch: one that lives on would hold memory of the GPU through every step.
    """
    asked = subprocess.run([sys.executable, '-c', _ASK_GPU], capture_output=True, text=True)
    if asked.returncode:
        return None
    return json.loads(asked.stdout) | {
        'driver': one_line(['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']),
        'date': datetime.date.today().isoformat(),
        'CUDA sources': sources_hash(),
    }


def one_line(command: Sequence[str]) -> str:
    """The first line that a command prints, or 'unknown'."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return 'unknown'
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else 'unknown'


def sources_hash() -> str:
    sys.path.insert(0, str(ROOT / 'ops'))
    import build_cuda

    return build_cuda.sources_hash()


class Report:
    """check.json and check.md: facts, and a row for each step.

    Steps of an earlier run stay where all facts are the same and this run does not repeat them.
    """

    def __init__(self, folder: Path, about: dict[str, str]) -> None:
        self.folder, self.about, self.steps = folder, about, {}
        self.lock = threading.Lock()
        path = folder / 'check.json'
        if path.exists():
            kept = json.loads(path.read_text())
            steps = kept.pop('steps')
            if kept == about:
                self.steps = {row['step']: row for row in steps}

    def note(self, step: str, result: str, seconds: float = 0, last_line: str = '') -> None:
        with self.lock:
            row = dict(step=step, result=result, seconds=round(seconds), last_line=last_line)
            known = self.steps | {step: row}
            self.steps = {name: known[name] for name in STEPS if name in known}
            self._write()

    def proven(self) -> bool:
        """Whether the tests passed on the library as these sources give it, and nothing else failed."""
        results = {name: row['result'] for name, row in self.steps.items()}
        needed = all(results.get(step) == PASSED for step in ('load', 'tests'))
        return needed and not {FAILED, TIMED_OUT, UNFINISHED} & set(results.values())

    def entry(self) -> str:
        """What to add to carafe_plugin/ops/_proven.py."""
        about = self.about
        note = f'{about["gpu"]}, torch {about["torch"]}, {about["date"]}'
        return f'({about["capability"]!r}, {about["CUDA sources"]!r}),  # {note}'

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.about | {'steps': list(self.steps.values())}, indent=1) + '\n'
        for name, text in (('check.json', content), ('check.md', self.text())):
            part = self.folder / f'{name}.part'
            part.write_text(text)
            os.replace(part, self.folder / name)  # whole, also where this process is killed

    def text(self) -> str:
        lines = ['# tools/gpu_check.sh', '', *(f'- {key}: {value}' for key, value in self.about.items())]
        if self.proven():
            lines += [f'- proven: `{self.entry()}`']
        lines += ['', '| step | result | seconds | last line |', '|---|---|---|---|']
        for row in self.steps.values():
            line = row['last_line'].replace('|', r'\|')
            lines.append(f'| {row["step"]} | {row["result"]} | {row["seconds"]} | {line} |')
        return '\n'.join(lines) + '\n'


def run(step: str, command: Sequence[str], limit: float) -> tuple[str, str]:
    """Run a step, its output shown as it comes; the result and the last line that says something."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        start_new_session=True,  # one kill ends all that it started
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, stop)
    timer.start()
    _running.add(process)
    last = ''
    for line in process.stdout:
        print(f'{step}: {line}' if step in AT_ONCE else line, end='', flush=True)
        last = line.strip() or last
    process.wait()
    _running.discard(process)
    timer.cancel()
    if late.is_set():
        return TIMED_OUT, f'after {limit:g} s: {last}'
    return PASSED if process.returncode == 0 else FAILED, last


def stop_all(*_) -> None:
    """End this script with all that it started; check.json says which steps were under way."""
    for process in list(_running):
        os.killpg(process.pid, signal.SIGKILL)
    os._exit(143)


def take_step(step: str, command: Sequence[str], limit: float, report: Report) -> None:
    """Run a step and note how it went; before it, that it has begun."""
    print(f'== {step}', flush=True)
    if step == 'build' and os.environ.get('KEEP_LIBRARIES') == '1':
        report.note(step, NOT_RUN, last_line='KEEP_LIBRARIES=1: the libraries that are there')
        return
    if shutil.which(command[0]) is None:
        report.note(step, NOT_RUN, last_line=f'{command[0]} is not found')
        return
    report.note(step, UNFINISHED)
    start = time.monotonic()
    result, last = run(step, command, limit)
    if step == 'peer' and result != PASSED:
        # mmcv is a yardstick: without it the rest is as good, but the reader must know.
        result, last = NOT_RUN, f"mmcv's operator is missing, nothing is measured against it: {last}"
    report.note(step, result, time.monotonic() - start, last)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='tools/gpu_check.sh', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'steps', nargs='*', metavar='STEP', help=f'of {" ".join(STEPS)}; all unless some are named'
    )
    parser.add_argument('--dry-run', action='store_true', help='say what would run; needs no GPU')
    parser.add_argument(
        '--limit', type=float, default=900, metavar='SECONDS', help='for a step (default: %(default)s)'
    )
    args = parser.parse_args(argv)
    for step in args.steps:
        if step not in STEPS:
            parser.error(f'unknown step {step!r}; known: {" ".join(STEPS)}')
    wanted = set(args.steps or STEPS)
    if 'benchmark-op' in wanted:
        wanted.add('peer')  # it measures against it, or the report says that it could not
    args.steps = [step for step in STEPS if step in wanted]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.dry_run:
        known = commands(Path('benchmarks', 'NAME-OF-THE-GPU'), sources_hash())
        for step in args.steps:
            print(f'== {step}: {subprocess.list2cmdline(known[step])}')
        return 0
    about = facts()
    if about is None:
        print('gpu_check: torch sees no GPU here', file=sys.stderr)
        return 1
    if not os.environ.get('TORCH_CUDA_ARCH_LIST'):
        os.environ['TORCH_CUDA_ARCH_LIST'] = about['capability']
    out = Path('benchmarks', re.sub('[^A-Za-z0-9.]+', '-', about['gpu']))
    known = commands(out, about['CUDA sources'])
    signal.signal(signal.SIGTERM, stop_all)
    report = Report(ROOT / out, about)
    for at_once, steps in itertools.groupby(args.steps, lambda step: step in AT_ONCE):
        names = list(steps)
        with ThreadPoolExecutor(len(names) if at_once else 1) as pool:
            list(pool.map(lambda step: take_step(step, known[step], args.limit, report), names))
    print(report.text())
    if report.proven():
        print(f'Proven. Add to PROVEN in carafe_plugin/ops/_proven.py:\n    {report.entry()}')
    results = {report.steps[step]['result'] for step in args.steps}
    return 1 if {FAILED, TIMED_OUT} & results else 0


if __name__ == '__main__':
    sys.exit(main())
