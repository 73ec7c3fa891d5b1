# SPDX-License-Identifier: Apache-2.0
"""Make ``.venv``: the pinned stack, mmcv compiled once, and this package in editable form.

Called by the Makefile with the interpreter to use. Standard library only, and no syntax newer than
Python 3.6, so that an old interpreter can still say what is wrong with it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
STAMP = VENV / 'carafe-setup.json'
PYTHON = str(VENV / 'bin' / 'python')
CONSTRAINTS = ROOT / 'requirements' / 'constraints.txt'
BUILD = ROOT / 'requirements' / 'build.txt'
NATIVE = sorted(
    path for path in (ROOT / 'ops').rglob('*') if path.suffix in ('.cpp', '.cu', '.cuh', '.h', '.py')
)
INPUTS = (CONSTRAINTS, BUILD, ROOT / 'pyproject.toml', ROOT / 'setup.py', Path(__file__), *NATIVE)

VERSIONS = ((3, 11), (3, 12), (3, 13))
DISK_GIB = 6
# Compiling mmcv takes this much on the machine that it was measured on (2 cores, no GPU).
MMCV_CORE_MINUTES = 6
BYTES_PER_JOB = 2 << 30
# What every source of mmcv includes: parsing torch's headers is most of the work, so it is done once.
MMCV_HEADERS = ('pytorch_cpp_helper.hpp', 'pytorch_device_registry.hpp')
PCH_COMPILER = Path(__file__).resolve().parent / 'pch_compiler.py'
# mmcv's setup.py reads its version from locals() after an exec(), which no longer fills them in Python 3.13.
OLD_EXEC = """
import builtins, sys

def old_exec(source, *spaces, plain=builtins.exec, **options):
    if not (spaces or options):
        frame = sys._getframe(1)
        spaces = frame.f_globals, frame.f_locals
    plain(source, *spaces, **options)

if sys.version_info >= (3, 13):
    builtins.exec = old_exec
"""

# dlopen resolves every symbol, so this finds out a wheel that was built against another torch.
LOAD_MMCV = """
import ctypes, glob, importlib.util, os, torch
folder = importlib.util.find_spec('mmcv').submodule_search_locations[0]
ctypes.CDLL(glob.glob(folder + '/_ext*.so')[0], os.RTLD_NOW)
"""
ASK_TORCH = """
import json, os, sys, torch
from torch.utils.cpp_extension import CUDA_HOME
gpu = torch.cuda.is_available() or os.getenv('FORCE_CUDA') == '1'
print(json.dumps(['cp%d%d' % sys.version_info[:2], torch.__version__, gpu, CUDA_HOME]))
"""
LOAD_NATIVE = """
import os, torch
from carafe_plugin.ops import _native
for device in ('cpu', 'cuda') if torch.version.cuda and os.getenv('CARAFE_CUDA') == '1' else ('cpu',):
    assert device in _native.loaded, f'no native library for {device}: {_native.why_not(device)}'
if os.getenv('CARAFE_OPENVINO') == '1':
    import openvino
    from carafe_plugin.openvino import extension_path
    openvino.Core().add_extension(extension_path())
"""


class SetupError(Exception):
    """Something that the user has to mend; the message is one line."""


def say(text: str) -> None:
    print(f'set-up: {text}', flush=True)


def missing() -> list:
    """Name what this machine lacks, before anything is written."""
    version = '.'.join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] not in VERSIONS:
        return [
            f'Python 3.11, 3.12 or 3.13 is needed, {sys.executable} is {version} '
            '(choose another: make PYTHON=...)'
        ]
    problems = []
    if not (find_spec('venv') and find_spec('ensurepip')):
        problems.append(f'{sys.executable} cannot make virtual environments (Debian: python3-venv)')
    if not Path(sysconfig.get_path('include'), 'Python.h').exists():
        problems.append(f'no Python.h for {sys.executable} (Debian: python3-dev)')
    compiler = (os.environ.get('CXX') or 'c++').split()[0]
    if shutil.which(compiler) is None:
        problems.append(f'no C++ compiler, {compiler!r} is not found (Debian: g++)')
    free = shutil.disk_usage(str(ROOT)).free / 2**30
    if not VENV.exists() and free < DISK_GIB:
        problems.append(f'{DISK_GIB} GB of free disk are needed in {ROOT}, {free:.1f} are there')
    return problems


def wanted_stamp() -> dict:
    """Describe .venv's origin: another ``base`` needs a new .venv, other ``inputs`` an update."""
    inputs = hashlib.sha256()
    for path in INPUTS:
        inputs.update(path.read_bytes())
    base = [list(sys.version_info[:2]), os.path.realpath(sys.base_prefix), str(ROOT)]
    return {'base': base, 'inputs': inputs.hexdigest()}


def read_stamp() -> dict:
    """Return the stamp of the existing .venv, empty where there is none or its Python is gone."""
    if not os.path.exists(PYTHON):
        return {}
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def environment(interpreter: str) -> dict:
    """Return the caller's environment less what would let other packages or places leak in."""
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'PIP_USER')}
    # torch looks for ninja on the PATH; without it the objects are compiled one after another.
    env['PATH'] = os.pathsep.join([os.path.dirname(interpreter), env.get('PATH', os.defpath)])
    env.setdefault('MAX_JOBS', str(build_jobs()))
    return env


def build_jobs() -> int:
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return max(1, min(os.cpu_count() or 1, memory // BYTES_PER_JOB))


def pip(*args, interpreter: str = PYTHON) -> None:
    """Run pip in .venv, in sight of the user."""
    command = [interpreter, '-m', 'pip', '--disable-pip-version-check', *map(str, args)]
    done = subprocess.run(command, env=environment(interpreter), cwd=str(ROOT), stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SetupError(f'pip failed, its message is above (pip {" ".join(command[4:])})')


def python(code: str, interpreter: str = PYTHON):
    """Run a few lines in .venv and return the finished process."""
    return subprocess.run(
        [interpreter, '-c', code],
        env=environment(interpreter),
        cwd=os.path.dirname(os.path.dirname(interpreter)),
        capture_output=True,
        text=True,
    )


def ask(code: str, interpreter: str = PYTHON) -> str:
    """Return what the lines print in .venv; they have to run."""
    done = python(code, interpreter)
    if done.returncode:
        reason = (done.stderr.strip() or f'exit status {done.returncode}').splitlines()[-1]
        raise SetupError(f'installed, but it does not work: {reason}')
    return done.stdout


def install_mmcv(interpreter: str = PYTHON) -> None:
    """Install mmcv from a wheel that loads with this torch; compile one where there is none.

    ``interpreter`` is that of a virtual environment which has what requirements/build.txt lists.
    """
    venv = Path(interpreter).parent.parent
    version = re.search(r'^mmcv==(\S+)$', CONSTRAINTS.read_text(), re.MULTILINE).group(1)
    has_version = f'from importlib.metadata import version\nassert version("mmcv") == "{version}"'
    if python(has_version + LOAD_MMCV, interpreter).returncode == 0:
        return

    tag, torch_version, gpu, cuda_home = json.loads(ask(ASK_TORCH, interpreter))
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    kept = cache / 'carafe-plugin' / f'mmcv-torch-{torch_version}{"-cuda" if gpu else ""}'

    with tempfile.TemporaryDirectory(dir=str(venv)) as scratch:
        for wheel in ready_wheels(version, tag, kept, Path(scratch, 'found'), interpreter):
            say(f'mmcv {version} from {wheel.name}')
            pip('install', '--quiet', '--no-deps', '--force-reinstall', wheel, interpreter=interpreter)
            if python(LOAD_MMCV, interpreter).returncode == 0:
                return
            say(f'that wheel does not load with torch {torch_version}')

        if gpu and cuda_home is None:
            raise SetupError(
                'a GPU is here but no CUDA toolkit (nvcc) to compile mmcv for it: install one, or '
                'set CUDA_VISIBLE_DEVICES= for a set-up without GPU'
            )
        log = venv / 'mmcv-build.log'
        minutes = max(2, round(MMCV_CORE_MINUTES / build_jobs()))
        say(f'there is no ready wheel of mmcv {version} for this Python and torch {torch_version}')
        cuda = ', and longer for its CUDA files' if gpu else ''
        say(f'compiling it, once: about {minutes} minutes on {build_jobs()} cores{cuda} (log: {log})')
        wheel = build_wheel(version, Path(scratch, 'built'), log, interpreter)
        pip('install', '--quiet', '--no-deps', '--force-reinstall', wheel, interpreter=interpreter)
        kept.mkdir(parents=True, exist_ok=True)
        # Under another name until it is whole: a torn wheel would stop every later set-up.
        partial = shutil.copy(str(wheel), str(kept / 'mmcv.partial'))
        os.replace(partial, str(kept / wheel.name))
        say(f'mmcv is kept for the next time: {kept / wheel.name}')


def ready_wheels(version: str, tag: str, kept: Path, folder: Path, interpreter: str):
    """Yield the wheel kept from an earlier build, then one from wherever the user's pip looks."""
    yield from kept.glob(f'mmcv-{version}-{tag}-*.whl')
    command = [interpreter, '-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary', 'mmcv']
    subprocess.run(
        [*command, '--dest', str(folder), f'mmcv=={version}'],
        env=environment(interpreter),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield from folder.glob('*.whl')


def pch_environment(folder: Path, interpreter: str) -> dict:
    """Return the environment in which mmcv compiles: pch_compiler.py stands in for the C++ compiler."""
    env = environment(interpreter)
    compiler = shlex.split(env.get('CXX') or 'c++')
    compiler[0] = shutil.which(compiler[0], path=env['PATH']) or compiler[0]
    folder.mkdir()
    Path(folder, 'sitecustomize.py').write_text(OLD_EXEC)
    # torch tells GCC from clang by how the name begins.
    launcher = Path(folder, f'{os.path.basename(compiler[0])}-pch')
    command = [interpreter, '-IS', str(PCH_COMPILER), str(folder), ','.join(MMCV_HEADERS)]
    command.append(' '.join(map(shlex.quote, compiler)))
    launcher.write_text('#!/bin/sh\nexec {} "$@"\n'.format(' '.join(map(shlex.quote, command))))
    launcher.chmod(0o755)
    # Found on the PATH, since a path may have spaces, and by no name that nvcc looks for: its calls stay.
    path = os.pathsep.join([str(folder), env['PATH']])
    return dict(env, CXX=launcher.name, PATH=path, PYTHONPATH=str(folder))


def build_wheel(version: str, folder: Path, log: Path, interpreter: str = PYTHON) -> Path:
    """Compile mmcv in the new ``folder``, saying how far it is, and return the wheel. Paths are absolute."""
    folder.mkdir()
    notes = folder / 'pch' / 'notes.txt'
    # Not from pip's cache: that one does not know which torch a wheel was compiled against.
    command = [interpreter, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-cache-dir']
    command += ['--no-binary', 'mmcv', '--wheel-dir', str(folder), f'mmcv=={version}']
    env = dict(pch_environment(notes.parent, interpreter), TMPDIR=str(folder))
    start = time.monotonic()
    with log.open('w') as stream:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    on_terminal = sys.stdout.isatty()
    noted = False
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2 if on_terminal else 30)
            if not noted and notes.exists() and notes.stat().st_size:
                noted = True
                if on_terminal:
                    print()
                say(f'this takes longer than it could: {notes.read_text().splitlines()[0]}')
            minutes, seconds = divmod(int(time.monotonic() - start), 60)
            line = f'set-up: mmcv {minutes}:{seconds:02d}, {compiled_objects(folder)}'
            if on_terminal:
                print(f'\r{line:<60}', end='', flush=True)
            else:
                print(line, flush=True)
    finally:
        if process.poll() is None:
            # The compilers are grandchildren: only the whole group ends with us.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if on_terminal:
        print()
    if process.returncode:
        print(''.join(log.read_text(errors='replace').splitlines(True)[-30:]))
        raise SetupError(f'mmcv did not compile; the whole log is {log}')
    return next(folder.glob('*.whl'))


def compiled_objects(folder: Path) -> str:
    """Return how many of mmcv's objects are there, read off ninja's own list."""
    # pip removes the folder when it is done, perhaps while we look.
    with contextlib.suppress(OSError):
        for plan in folder.rglob('build.ninja'):
            total = len(re.findall(r'^build \S+\.o:', plan.read_text(), re.MULTILINE))
            return f'{len(list(plan.parent.rglob("*.o")))} of {total} files compiled'
    return 'packing or unpacking'


def require_native() -> None:
    """Let an install fail where a library does not build, unless the caller wants none (CARAFE_NATIVE=0)."""
    sys.path.insert(0, str(ROOT / 'ops'))
    import build_cuda

    os.environ.setdefault('CARAFE_NATIVE', '1')
    os.environ.setdefault('CARAFE_OPENVINO', os.environ['CARAFE_NATIVE'])
    if build_cuda.nvcc() is not None:
        os.environ.setdefault('CARAFE_CUDA', '1')
        if ask('import torch; print(torch.version.cuda)').strip() == 'None':
            # Nobody runs it here: one target shows that it compiles.
            os.environ.setdefault('TORCH_CUDA_ARCH_LIST', '9.0')


def make(stamp: dict) -> None:
    """Bring .venv to what ``stamp`` describes."""
    old = read_stamp()
    if VENV.exists() and old.get('base') != stamp['base']:
        if not STAMP.exists():
            raise SetupError(f'{VENV} is there but `make setup` did not make it: move it away')
        say('.venv is unfinished or belongs to another Python or folder: making it anew')
        shutil.rmtree(str(VENV))
    if not VENV.exists():
        VENV.mkdir()
        STAMP.write_text('{}')
        # From inside an old .venv the interpreter underneath is the one to build on.
        base = getattr(sys, '_base_executable', sys.executable)
        subprocess.run([base, '-m', 'venv', str(VENV)], check=True, env=environment(PYTHON))
    STAMP.write_text(json.dumps(dict(stamp, inputs='being installed')))

    say('torch and the build tools')
    pip('install', '--requirement', BUILD, '--constraint', CONSTRAINTS)
    install_mmcv()
    say('the OpenMMLab stack, the test tools and this package')
    require_native()
    extras = '.[mmdet,mmseg,inpainting,onnx,openvino,dev]'
    pip('install', '--no-build-isolation', '--constraint', CONSTRAINTS, '--editable', extras)
    ask('import carafe_plugin, mmcv.ops, mmdet, mmseg, pycocotools.mask')
    if os.environ['CARAFE_NATIVE'] == '1':
        ask(LOAD_NATIVE)
    STAMP.write_text(json.dumps(stamp))
    say(f'ready: Python {sys.version_info[0]}.{sys.version_info[1]} in {VENV}')
    say(f'to use it: . {VENV.name}/bin/activate')


def main() -> int:
    """Check, then install; return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        stamp = wanted_stamp()
        if read_stamp() == stamp:
            return 0
        problems = missing()
        if problems:
            raise SetupError(f'nothing was installed: {"; ".join(problems)}')
        with open(f'{VENV}.lock', 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say('waiting for another set-up of this folder')
                fcntl.flock(lock, fcntl.LOCK_EX)
            if read_stamp() != stamp:
                make(stamp)
    except (SetupError, OSError, subprocess.CalledProcessError) as error:
        print(f'set-up stopped: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nset-up stopped: interrupted, run it again to go on', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
