# SPDX-License-Identifier: Apache-2.0
"""``make matrix``: the package installed as by a user beside other Pythons and torches, and tested there.

Every row gets a fresh virtual environment in the temporary folder, 5 to 8 GB of it, and loses it afterwards.
The results are merged into docs/results/matrix.json and matrix.md; the logs stay in work_dirs/matrix.

    python tools/matrix.py                                  # every row for which there is an interpreter
    python tools/matrix.py 3.10-2.1.2 newest
    python tools/matrix.py --no-hosts 3.13-2.10.0
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'tools'), str(ROOT / 'ops')]

import build_cuda

import make_dist
import setup_env

# Row: Python (the newest that is here for None), what pip is asked for first.
ROWS = {
    '3.10-2.1.2': ('3.10', ['torch==2.1.2', 'numpy<2']),
    '3.10-2.4.1': ('3.10', ['torch==2.4.1', 'numpy']),
    '3.11-2.7': ('3.11', ['torch==2.7.*', 'numpy']),
    '3.13-2.10.0': ('3.13', ['torch==2.10.0', 'numpy']),
    '3.12-2.13': ('3.12', ['torch==2.13.*', 'numpy']),
    'newest': (None, ['torch', 'numpy']),
}
# What requirements/build.txt has but for openvino, and what the tests need. mmengine imports pkg_resources.
TOOLS = ['setuptools>=77,<81', 'wheel', 'ninja', 'psutil', 'pytest>=8', 'pytest-xdist[psutil]', 'pyyaml']

OPERATOR_TESTS = ['tests/ops', 'tests/upsamplers', 'tests/downsamplers']
HOST_TESTS = [
    'tests/detection',
    'tests/segmentation',
    'tests/upsamplers/test_custom.py',
    'tests/test_mmcv_patch.py',
    'tests/runtime/test_resume.py',
]
# The first four compile what lies in ops/ themselves, whatever is installed; the fifth is a test of hosts.
NOT_OPERATOR_TESTS = [
    'tests/ops/test_cross.py',
    'tests/ops/test_cuda_emulated.py',
    'tests/ops/test_cuda_build.py',
    'tests/ops/test_headers.py',
    'tests/upsamplers/test_custom.py',
]
# Without these the tests can import nothing but what is installed.
NOT_COPIED = ('carafe_plugin', 'ops', 'configs', 'tools', 'setup.py')
CONFTEST = """
import sysconfig

import carafe_plugin

assert carafe_plugin.__file__.startswith(sysconfig.get_path('platlib') + '/'), carafe_plugin.__file__
"""
DEMO_CONFIG = 'configs/quickstart/mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py'
# After so few iterations no score reaches the usual threshold, and pycocotools refuses an empty list.
SHORT = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20, val_interval=20)
param_scheduler = param_scheduler[:1]
model['test_cfg']['rcnn'].update(score_thr=0.0, max_per_img=10)
"""
FACTS = """
import importlib.metadata, json, platform, torch
from carafe_plugin import env

facts = dict(python=platform.python_version(), torch=torch.__version__, machine=env.machine('cpu'))
for package in ('numpy', 'mmcv', 'mmdet', 'mmsegmentation'):
    try:
        facts[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        facts[package] = None
lines = dict(env.describe())
facts.update(cpu=lines['cpu operators'], cuda=lines['cuda operators'])
print(json.dumps(facts))
"""
INTRODUCTION = """\
# Installed beside other Pythons and torches

Written by `make matrix` (tools/matrix.py). Each row had an environment of its own, with the package installed
from the sdist; the tests lay elsewhere. Counts: passed / failed / skipped, without the slow tests.
Operators: tests/ops, tests/upsamplers, tests/downsamplers; hosts: tests/detection, tests/segmentation and
resuming; demo: `make demo` at 20 iterations; wheel: the operators again, with the wheel of `make dist` in the
place of the sdist (it needs torch 2.10 or later).
"""
TESTED = ('operators', 'hosts', 'wheel')
# A hang is a failure.
TIMEOUT = 2 * 60 * 60

RESULTS = ROOT / 'docs' / 'results' / 'matrix.json'
LOGS = ROOT / 'work_dirs' / 'matrix'


class StepError(Exception):
    """A step failed; the message is one line for the table."""


def interpreter(version: str | None) -> str | None:
    """The newest Python of this minor version, or of all, in pyenv's folder or on the PATH."""
    found = {}
    pyenv = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv')
    candidates = list(pyenv.glob('versions/3.*.*/bin/python'))
    candidates += [Path(path) for n in range(10, 30) if (path := shutil.which(f'python3.{n}'))]
    code = 'import sys; print(*sys.version_info[:3])'
    for path in candidates:
        done = subprocess.run([str(path), '-c', code], capture_output=True, text=True)
        if done.returncode == 0:  # pyenv's own python3.x stops where no such version is chosen
            found.setdefault(tuple(map(int, done.stdout.split())), str(path))
    wanted = [key for key in found if version is None or f'{key[0]}.{key[1]}' == version]
    return found[max(wanted)] if wanted else None


class Environment:
    """A virtual environment, made from scratch; its steps say what they do and how long it took."""

    def __init__(self, row: str, folder: Path, base: str):
        self.row, self.folder = row, folder
        self.python = folder / 'venv' / 'bin' / 'python'
        self.tests = folder / 'tests'
        self.constraints = folder / 'constraints.txt'
        self.logs = LOGS / row
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.run('venv', [base, '-m', 'venv', folder / 'venv'])

    @contextlib.contextmanager
    def step(self, title: str):
        start = time.monotonic()
        print(f'matrix: {self.row}: {title} ...', flush=True)
        try:
            yield
        except StepError as error:
            print(f'matrix: {self.row}: {title}: {error}', flush=True)
            raise
        finally:
            print(f'matrix: {self.row}: {title}: {time.monotonic() - start:.0f} s', flush=True)

    def run(self, title: str, command: list, may_fail: bool = False, **env: str) -> str:
        """Run a command, its output going to a log; return that output."""
        inherited = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'PIP_USER')}
        inherited['PATH'] = os.pathsep.join([str(self.python.parent), inherited.get('PATH', os.defpath)])
        log = self.logs / f'{title}.log'
        with self.step(title):
            with log.open('w') as stream:
                try:
                    done = subprocess.run(
                        list(map(str, command)),
                        cwd=self.tests if self.tests.exists() else self.folder,
                        env=inherited | env,
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        timeout=TIMEOUT,
                    )
                except subprocess.TimeoutExpired:
                    raise StepError(f'{title}: not done after {TIMEOUT} s') from None
            text = log.read_text(errors='replace')
            if done.returncode and not may_fail:
                raise StepError(f'{title}: {(text.strip() or "exit status").splitlines()[-1][:200]}')
        return text

    def pip(self, title: str, *args, **env: str) -> None:
        """Install; no later step may replace the torch that the row is about, or break its bound on numpy."""
        command = [self.python, '-m', 'pip', 'install', '--no-cache-dir', '--disable-pip-version-check']
        if self.constraints.exists():
            command += ['--constraint', self.constraints]
        self.run(title, [*command, *args], **env)

    def ask(self, code: str) -> str:
        command = [str(self.python), '-W', 'ignore', '-c', code]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise StepError((done.stderr.strip() or 'exit status').splitlines()[-1][:200])
        return done.stdout.strip()


def install(env: Environment, requirements: list, sdist: Path, hosts: bool) -> str | None:
    """Install as README.md says; return why the hosts' toolboxes are not there, or None where they are."""
    env.pip('torch', *requirements)
    # The version that pip knows: torch itself adds +cu128 and the like.
    torch = env.ask('from importlib.metadata import version; print(version("torch"))')
    cuda = env.ask('import torch; print(torch.version.cuda)')
    env.constraints.write_text('\n'.join([f'torch=={torch}', *requirements[1:], 'setuptools<81']) + '\n')
    env.pip('tools', *TOOLS)
    switches = dict(CARAFE_NATIVE='1', CARAFE_CUDA='1' if is_stable(torch) and nvcc_fits(cuda) else '0')
    package = ['--no-build-isolation', sdist]
    why_not = None if hosts else 'not asked for'
    if hosts:
        try:
            with env.step('mmcv'):
                install_mmcv(env)
            env.pip('package', *package[:-1], f'{sdist}[mmdet,mmseg]', **switches)
        except StepError as error:
            why_not = str(error)
    if why_not:
        env.pip('package', *package, **switches)
    return why_not


def is_stable(torch: str) -> bool:
    """Whether this version of torch has the stable ABI that the wheel and the CUDA library want."""
    return tuple(map(int, torch.split('.')[:2])) >= (2, 10)


def nvcc_fits(cuda: str) -> bool:
    if build_cuda.nvcc() is None:
        return False
    version = subprocess.run([build_cuda.nvcc(), '--version'], capture_output=True, text=True).stdout
    return f'release {cuda.partition(".")[0]}.' in version


def install_mmcv(env: Environment) -> None:
    try:
        setup_env.install_mmcv(str(env.python))
    except (setup_env.SetupError, OSError, subprocess.CalledProcessError) as error:
        # The log that the message names goes with the environment.
        raise StepError(f'mmcv: {str(error).partition("; the whole log")[0]}') from None


def copy_tests(env: Environment, project: Path) -> None:
    """The tests, and the configs and tools that the installed package has."""
    shutil.copytree(project, env.tests, ignore=lambda path, _: NOT_COPIED if Path(path) == project else ())
    mim = Path(env.ask('import carafe_plugin; print(carafe_plugin.__path__[0])'), '.mim')
    for name in ('configs', 'tools'):
        shutil.copytree(mim / name, env.tests / name)
    (env.tests / 'conftest.py').write_text(CONFTEST)


def run_tests(env: Environment, title: str, paths: list) -> dict:
    """Counts, and the names of what failed."""
    report = env.logs / f'{title}.xml'
    command = [env.python, '-m', 'pytest', '-p', 'no:cacheprovider', '--numprocesses', 'logical']
    command += ['--maxprocesses', '8', '-m', 'not slow', f'--junitxml={report}', *paths]
    command += [f'--ignore={path}' for path in NOT_OPERATOR_TESTS if path not in paths]
    text = env.run(title, command, may_fail=True, OMP_NUM_THREADS='1')
    if not report.exists():
        raise StepError(f'{title}: {text.strip().splitlines()[-1][:200]}')
    cases = list(xml.etree.ElementTree.parse(report).iter('testcase'))
    failed = [case for case in cases if case.find('failure') is not None or case.find('error') is not None]
    skipped = sum(case.find('skipped') is not None for case in cases)
    names = sorted(f'{case.get("classname")}.{case.get("name")}' for case in failed)
    return dict(
        passed=len(cases) - len(failed) - skipped, failed=len(failed), skipped=skipped, failures=names
    )


def run_demo(env: Environment) -> str:
    """``make demo`` from the installed tools, at 20 iterations."""
    with (env.tests / DEMO_CONFIG).open('a') as stream:
        stream.write(SHORT)
    start = time.monotonic()
    env.run('demo', [env.python, 'tools/quickstart.py'])
    return f'runs, {time.monotonic() - start:.0f} s'


def run_row(row: str, base: str, project: Path, sdist: Path, wheel: Path, hosts: bool, commit: str) -> dict:
    """Install, test and delete one environment; what it came to."""
    record = dict(row=row, date=datetime.date.today().isoformat(), commit=commit)
    with tempfile.TemporaryDirectory(prefix='carafe-matrix-', ignore_cleanup_errors=True) as folder:
        try:
            env = Environment(row, Path(folder), base)
            without_hosts = install(env, ROWS[row][1], sdist, hosts)
            copy_tests(env, project)
            record.update(json.loads(env.ask(FACTS).splitlines()[-1]))
            for device in ('cpu', 'cuda'):  # the path to a library is nobody's business
                record[device] = re.sub(r'(?<=[( ])/\S*/(?=_C_)', '', record[device])
            record['operators'] = run_tests(env, 'operators', OPERATOR_TESTS)
            if without_hosts:
                record['hosts'] = record['demo'] = f'not run: {without_hosts}'
            else:
                record['hosts'] = run_tests(env, 'hosts', HOST_TESTS)
                record['demo'] = run_demo(env)
            if is_stable(record['torch']):
                env.pip('install-wheel', '--force-reinstall', '--no-deps', wheel)
                cpu = json.loads(env.ask(FACTS).splitlines()[-1])['cpu']
                if not cpu.startswith('native'):
                    raise StepError(f'wheel: {cpu}')
                record['wheel'] = run_tests(env, 'wheel', OPERATOR_TESTS)
        except StepError as error:
            record['error'] = str(error)
    return record


def is_good(record: dict) -> bool:
    """Toolboxes that do not install are no failure of ours; the table says why they are not there."""
    counted = [record[part] for part in TESTED if isinstance(record.get(part), dict)]
    works = record.get('cpu', '').startswith('native') and all(part['passed'] for part in counted)
    return works and 'error' not in record and not any(part['failed'] for part in counted)


def current_commit() -> str:
    command = ['git', 'describe', '--always', '--dirty', '--exclude=*']
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def save(record: dict) -> None:
    """Put a row into the table, in the place of an older one of the same name."""
    records = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    records = [old for old in records if old['row'] != record['row']] + [record]
    records.sort(key=lambda r: list(ROWS).index(r['row']) if r['row'] in ROWS else len(ROWS))
    RESULTS.write_text(json.dumps(records, indent=1) + '\n')
    RESULTS.with_suffix('.md').write_text(table(records))


def table(records: list) -> str:
    def part(value) -> str:
        if not isinstance(value, dict):
            return value or '-'
        return f'{value["passed"]} / {value["failed"]} / {value["skipped"]}'

    lines = [
        INTRODUCTION,
        '| row | Python | torch | numpy | mmcv, mmdet, mmseg | operators | hosts | demo | wheel |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for r in records:
        toolboxes = ', '.join(r.get(name) or '-' for name in ('mmcv', 'mmdet', 'mmsegmentation'))
        cells = [
            r['row'],
            *(r.get(name) or '-' for name in ('python', 'torch', 'numpy')),
            toolboxes,
        ]
        cells += [part(r.get(name)) for name in ('operators', 'hosts', 'demo', 'wheel')]
        lines.append(f'| {" | ".join(cells)} |')
    for r in records:
        lines += ['', f'## {r["row"]}: {"passed" if is_good(r) else "FAILED"}', '']
        lines += [f'- CPU: {r["cpu"]}', f'- CUDA: {r["cuda"]}'] if 'cpu' in r else []
        lines.append(f'- {r["date"]}, commit {r["commit"]}, {r.get("machine", "machine unknown")}')
        lines += [f'- stopped: {r["error"]}'] if 'error' in r else []
        for name in TESTED:
            failures = r[name]['failures'] if isinstance(r.get(name), dict) else []
            lines += [f'- failed: `{failure}`' for failure in failures[:20]]
            lines += [f'- and {len(failures) - 20} more'] if len(failures) > 20 else []
    return '\n'.join(lines) + '\n'


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('rows', nargs='*', metavar='ROW', help=f'of {", ".join(ROWS)}; all without')
    parser.add_argument('--no-hosts', action='store_true', help='neither mmcv, mmdet and mmseg nor the demo')
    args = parser.parse_args()
    unknown = [row for row in args.rows if row not in ROWS]
    if unknown:
        parser.error(f'unknown: {", ".join(unknown)}')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # environments are deleted in any case
    good, commit = {}, current_commit()
    with tempfile.TemporaryDirectory() as scratch:
        project = make_dist.export(Path(scratch, 'project'))
        sdist = make_dist.build_sdist(project, Path(scratch, 'sdist'))
        wheel = make_dist.build_wheel(sdist, Path(scratch, 'wheel'))
        for row in args.rows or ROWS:
            base = interpreter(ROWS[row][0])
            if base is None:
                print(f'matrix: {row}: not run: there is no Python {ROWS[row][0]} here')
                continue
            record = run_row(row, base, project, sdist, wheel, not args.no_hosts, commit)
            save(record)
            good[row] = is_good(record)
    for row, passed in good.items():
        print(f'matrix: {row}: {"passed" if passed else "FAILED"}')
    print(f'matrix: the table is {RESULTS.with_suffix(".md")}, the logs are in {LOGS}')
    return 0 if all(good.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
