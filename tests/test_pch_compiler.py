# SPDX-License-Identifier: Apache-2.0
"""tools/pch_compiler.py on two small sources: what it spares, and when it keeps out of the way."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / 'tools'
FREE = subprocess.run(['c++', '--version'], capture_output=True, text=True).stdout
pytestmark = pytest.mark.skipif('Free Software Foundation' not in FREE, reason='c++ is not GCC')


def write_header(body: str) -> None:
    Path('common.hpp').write_text(f'#ifndef COMMON\n#define COMMON\n{body}\n#endif\n')


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two sources with one header, and a compiler that writes down how it was called."""
    monkeypatch.chdir(tmp_path)
    write_header('inline int common() { return 1; }')
    Path('more.hpp').write_text('inline int more() { return 2; }\n')
    for name in 'ab':
        Path(f'{name}.cpp').write_text(f'#include "common.hpp"\nint {name}() {{ return common(); }}\n')
    Path('logged').write_text('#!/bin/sh\necho "$@" >> calls\nexec c++ "$@"\n')
    Path('logged').chmod(0o755)
    return tmp_path


def start(*arguments, headers='common.hpp', compiler='./logged') -> subprocess.Popen:
    command = [sys.executable, TOOLS / 'pch_compiler.py', 'pch', headers, compiler, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def compile_one(name: str, *flags, **kwargs) -> tuple:
    """Compile as torch's ninja file does and return the exit status and what was said."""
    own = ['-MMD', '-MF', f'{name}.o.d', '-I.', '-g', '-c', f'{name}.cpp', '-o', f'{name}.o']
    process = start(*own, *flags, **kwargs)
    said = process.communicate()[1]
    return process.returncode, said


def headers_made(folder: Path) -> int:
    return (folder / 'calls').read_text().count('-x c++-header')


def test_header_is_parsed_once_for_each_set_of_flags(project):
    both = [start('-I.', '-c', f'{name}.cpp', '-o', f'{name}.o') for name in 'ab']
    assert [process.wait() for process in both] == [0, 0]
    assert headers_made(project) == 1
    # Whoever reads the text again fails from here on.
    write_header('#error read again')
    Path('b.o').unlink()
    again = start('-I.', '-c', 'b.cpp', '-o', 'b.o', '-MMD', '-MF', 'b.o.d')
    assert again.communicate() == ('', '')
    assert Path('b.o').exists()
    write_header('inline int common() { return VALUE; }')
    for count, flag in ((2, '-DVALUE=2'), (3, '-DVALUE=3'), (3, '-DVALUE=2')):
        assert compile_one('a', flag) == (0, '')
        assert headers_made(project) == count
    assert not Path('pch', 'notes.txt').exists()


def test_objects_hold_no_debug_information(project):
    assert compile_one('a') == (0, '')
    assert b'.debug_info' not in Path('a.o').read_bytes()


@pytest.mark.parametrize(
    'headers, compiler, reason',
    [
        ('common.hpp,missing.hpp', 'c++', r'does not compile \(.*missing\.hpp'),
        # GCC takes a precompiled header only in the first place.
        ('common.hpp', 'c++ -include more.hpp', 'the compiler does not use it'),
    ],
)
def test_header_that_does_not_take_leaves_the_plain_compile(project, headers, compiler, reason):
    status, said = compile_one('a', headers=headers, compiler=compiler)
    assert status == 0
    assert Path('a.o').exists()
    assert re.search(f'no precompiled header, .*{reason}', said)
    # Once is enough.
    assert compile_one('b', headers=headers, compiler=compiler) == (0, '')
    assert len(Path('pch', 'notes.txt').read_text().splitlines()) == 1


def test_source_that_only_compiles_without_the_header(project):
    with Path('a.cpp').open('a') as stream:
        stream.write('int more() { return 3; }\n')
    status, said = compile_one('a', headers='common.hpp,more.hpp')
    assert status == 0
    assert said == 'pch_compiler: a.cpp compiles only without the precompiled header\n'


@pytest.mark.parametrize('first', ['#define common other\n#include "common.hpp"', '#include <cstddef>'])
def test_source_without_the_header_or_with_macros_before_it_stays_as_it_is(project, first):
    Path('a.cpp').write_text(f'{first}\n')
    assert compile_one('a') == (0, '')
    assert not Path('pch').exists()


def test_failing_source_fails_as_without_us(project):
    Path('a.cpp').write_text('#include "common.hpp"\nint a() { return nothing; }\n')
    plain = subprocess.run(['c++', '-I.', '-c', 'a.cpp'], capture_output=True, text=True)
    assert 'nothing' in plain.stderr
    assert compile_one('a') == (plain.returncode, plain.stderr)
    assert not Path('pch', 'notes.txt').exists()


def test_other_calls_go_through(project):
    process = start('--version', compiler='c++')
    assert process.communicate() == (FREE, '')
    assert compile_one('a') == compile_one('b') == (0, '')
    assert start('-shared', 'a.o', 'b.o', '-o', 'ab.so').wait() == 0


def test_setup_puts_it_in_the_place_of_the_compiler(project, monkeypatch):
    spec = importlib.util.spec_from_file_location('setup_env', TOOLS / 'setup_env.py')
    setup_env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup_env)
    monkeypatch.setattr(setup_env, 'MMCV_HEADERS', ('common.hpp',))
    monkeypatch.setenv('CXX', 'c++ -DVALUE=1')
    folder = project / 'with a space'
    env = setup_env.pch_environment(folder, sys.executable)
    assert os.sep not in env['CXX']
    subprocess.run('$CXX -I. -c a.cpp', shell=True, env=env, check=True)
    assert len(list(folder.glob('*/pch.hpp.gch'))) == 1
