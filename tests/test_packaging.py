# SPDX-License-Identifier: Apache-2.0
"""What a user meets before any code of ours runs: the set-up, the package and its make targets."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import torch
import yaml

import carafe_plugin
from tests.runtime.helpers import load_tool

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'ops'))

from build_cuda import nvcc  # noqa: E402

HAS_OPENVINO = importlib.util.find_spec('openvino') is not None

PACKAGED = (
    'carafe_plugin',
    'configs',
    'ops',
    'requirements',
    'tests',
    'tools',
    'LICENSE',
    'MANIFEST.in',
    'README.md',
    'model-index.yml',
    'pyproject.toml',
    'setup.py',
)


def copy_project(target: Path) -> Path:
    """Copy what a build reads, so that none writes into the work tree."""
    target.mkdir()
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns('__pycache__', '.mim')
            shutil.copytree(ROOT / name, target / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, target / name)
    return target


def run(*command, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, **kwargs)


# One worker of pytest-xdist builds it, for all of these tests.
with_wheel = pytest.mark.xdist_group('wheel')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp('wheel')
    project = copy_project(folder / 'project')
    pip = [sys.executable, '-m', 'pip', 'wheel', '.', '--no-deps', '--no-build-isolation']
    # A library that does not compile is a fault here, where its compiler is.
    switches = dict(
        CARAFE_NATIVE='1',
        CARAFE_CUDA=str(int(nvcc() is not None)),
        CARAFE_OPENVINO=str(int(HAS_OPENVINO)),
        TORCH_CUDA_ARCH_LIST='9.0',
    )
    done = run(*pip, '--wheel-dir', folder, cwd=project, env=os.environ | switches)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob('*.whl'))) as archive:
        yield archive


@with_wheel
def test_torch_is_the_only_hard_requirement(wheel):
    name = next(name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    metadata = Parser().parsestr(wheel.read(name).decode())
    hard = [line for line in metadata.get_all('Requires-Dist') if 'extra ==' not in line]
    assert len(hard) == 1
    assert hard[0].startswith('torch>=')
    assert set(metadata.get_all('Provides-Extra')) == {
        'mmdet',
        'mmseg',
        'inpainting',
        'onnx',
        'openvino',
        'dev',
    }


@with_wheel
def test_wheel_holds_package_and_configs_but_no_tests(wheel):
    names = wheel.namelist()
    for source in ('configs', 'tools'):
        expected = {
            f'carafe_plugin/.mim/{path.relative_to(ROOT)}'
            for path in (ROOT / source).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts
        }
        packed = {name for name in names if name.startswith(f'carafe_plugin/.mim/{source}/')}
        assert packed == expected
    assert 'carafe_plugin/.mim/model-index.yml' in names
    assert 'carafe_plugin/py.typed' in names
    outside = [name for name in names if not re.match(r'carafe_plugin(/|-[^/]+\.dist-info/)', name)]
    assert not outside


def test_sdist_holds_what_a_build_needs_and_nothing_else(tmp_path):
    make_dist = load_tool('make_dist')
    project = make_dist.export(tmp_path / 'project')
    sdist = make_dist.build_sdist(project, tmp_path / 'out')
    names, _ = make_dist.meant(project, sdist.name.removesuffix('.tar.gz'))
    assert f'{sdist.name.removesuffix(".tar.gz")}/LICENSE' in names
    assert not make_dist.faults(sdist, names)


def test_dist_refuses_what_is_not_meant(tmp_path):
    with zipfile.ZipFile(tmp_path / 'some.whl', 'w') as archive:
        archive.writestr('benchmarks/op.json', '{}')
        archive.writestr('carafe_plugin/_C_cpu.so', f'runpath {sys.prefix}/lib/torch')
    problems = load_tool('make_dist').faults(tmp_path / 'some.whl', {'LICENSE', 'carafe_plugin/_C_cpu.so'})
    assert [problem.split()[0] for problem in problems[:2]] == ['benchmarks/op.json', 'LICENSE']
    assert 'a path of this machine' in problems[2]


@pytest.mark.slow
def test_dist_makes_one_wheel_for_every_python(tmp_path, monkeypatch):
    make_dist = load_tool('make_dist')
    monkeypatch.setattr(make_dist, 'DIST', tmp_path / 'dist')
    make_dist.main()
    wheel, sdist = sorted((tmp_path / 'dist').iterdir(), key=lambda path: path.suffix == '.gz')
    assert sdist.name.endswith('.tar.gz')
    assert re.search(r'-py3-none-manylinux_\S+\.whl$', wheel.name)


@with_wheel
def test_wheel_holds_the_libraries_and_they_load(wheel, tmp_path):
    wheel.extractall(tmp_path)
    has_cuda = (tmp_path / 'carafe_plugin' / '_C_cuda.so').exists()
    assert has_cuda == (nvcc() is not None)
    code = (
        'from carafe_plugin.ops import _native; print(*_native.loaded.values(), _native.missing, sep="\\n")'
    )
    environment = {k: v for k, v in os.environ.items() if k != 'CARAFE_LIBRARY_DIR'}
    *loaded, missing = run(sys.executable, '-c', code, cwd=tmp_path, env=environment).stdout.splitlines()
    assert len(loaded) == (2 if has_cuda and torch.version.cuda else 1), missing
    assert all(Path(path).is_relative_to(tmp_path) for path in loaded)


def test_editable_install_links_configs(tmp_path):
    project = copy_project(tmp_path / 'project')
    code = 'from setuptools import build_meta; build_meta.build_editable("..")'
    done = run(sys.executable, '-c', code, cwd=project, env=os.environ | {'CARAFE_NATIVE': '0'})
    assert done.returncode == 0, done.stderr
    for entry in ('configs', 'tools', 'model-index.yml'):
        link = project / 'carafe_plugin' / '.mim' / entry
        assert link.is_symlink()
        assert link.samefile(project / entry)


def test_model_index_leads_to_configs():
    for metafile in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']:
        models = yaml.safe_load((ROOT / metafile).read_text())['Models']
        assert models
        for model in models:
            assert (ROOT / model['Config']).is_file(), model['Name']


def test_citation_names_this_version():
    assert yaml.safe_load((ROOT / 'CITATION.cff').read_text())['version'] == carafe_plugin.__version__


def test_help_is_the_default_and_names_every_target():
    done = run('make', cwd=ROOT)
    makefile = (ROOT / 'Makefile').read_text()
    targets = re.search(r'^\.PHONY: (.*)$', makefile, re.MULTILINE).group(1).split()
    assert re.findall(r'^  make (\S+) +\S', done.stdout, re.MULTILINE) == targets


@pytest.mark.parametrize(
    'fault, message',
    [
        ('sys.version_info = (3, 9, 18)', r'Python 3\.11, 3\.12 or 3\.13 is needed, .* is 3\.9\.18'),
        ('os.environ["PATH"] = ""', r'no C\+\+ compiler'),
        ('os.environ["CXX"] = "no-such-compiler -O2"', r"'no-such-compiler' is not found"),
        ('sysconfig.get_path = lambda name: os.devnull', r'no Python\.h'),
        ('sys.modules["ensurepip"] = None', r'cannot make virtual environments'),
        ('shutil.disk_usage = lambda path: Usage(5 << 30)', r'6 GB of free disk .* 5\.0 are there'),
    ],
)
def test_setup_says_what_is_missing_before_it_writes(tmp_path, fault, message):
    project = copy_project(tmp_path / 'project')
    before = sorted(project.rglob('*'))
    code = f"""
import collections, os, runpy, shutil, sys, sysconfig
Usage = collections.namedtuple('Usage', 'free')
{fault}
runpy.run_path('tools/setup_env.py', run_name='__main__')
"""
    done = run(sys.executable, '-c', code, cwd=project)
    assert done.returncode == 1
    assert done.stdout == ''
    line = rf'set-up stopped: nothing was installed: [^\n]*{message}[^\n]*\n'
    assert re.fullmatch(line, done.stderr)
    assert sorted(project.rglob('*')) == before


def load_setup_env(project: Path):
    spec = importlib.util.spec_from_file_location('setup_env', project / 'tools' / 'setup_env.py')
    setup_env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup_env)
    return setup_env


def test_setup_works_again_only_when_its_inputs_changed(tmp_path, monkeypatch):
    setup_env = load_setup_env(copy_project(tmp_path / 'project'))
    made = []

    def make(stamp):
        made.append(stamp)
        python = Path(setup_env.PYTHON)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        setup_env.STAMP.write_text(setup_env.json.dumps(stamp))

    monkeypatch.setattr(setup_env, 'make', make)
    monkeypatch.setattr(setup_env, 'missing', list)
    # The handler would outlive the test.
    monkeypatch.setattr(setup_env.signal, 'signal', lambda *_: None)
    assert [setup_env.main(), setup_env.main(), len(made)] == [0, 0, 1]
    with setup_env.CONSTRAINTS.open('a') as stream:
        stream.write('one-more==1.0\n')
    assert [setup_env.main(), len(made)] == [0, 2]
    assert made[0]['base'] == made[1]['base']
    Path(setup_env.PYTHON).unlink()
    assert [setup_env.main(), len(made)] == [0, 3]


def test_mmcv_can_read_its_version_in_every_python(tmp_path):
    # As its setup.py does; Python 3.13 alone needs help.
    code = """
def get_version():
    exec('__version__ = "2.1.0"')
    return locals()['__version__']

assert get_version() == '2.1.0'
exec('seen = 1', space := {})
assert space['seen'] == 1 and 'seen' not in globals()
"""
    (tmp_path / 'sitecustomize.py').write_text(load_setup_env(ROOT).OLD_EXEC)
    done = run(sys.executable, '-c', code, cwd=tmp_path, env={'PYTHONPATH': str(tmp_path)})
    assert done.returncode == 0, done.stderr
