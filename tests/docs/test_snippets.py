# SPDX-License-Identifier: Apache-2.0
"""Every code block of the documentation runs, or is checked as far as a test can go.

Python blocks are executed. Shell blocks are given to bash, with stand-ins for the programs that they call:
each notes how it was called, and the test looks at it. A program without a stand-in is not found, and fails.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.runtime.helpers import load_tool
from tests.test_public_api import ParsedError

from .snippets import PAGES, ROOT, blocks

# Pages whose Python blocks export a model: minutes.
SLOW = ('docs/export.md', 'docs/segmentation.md')
LANGUAGES = ('python', 'bash', 'text')
PROGRAM = f"""#!{sys.executable}
import json, os, sys
name = os.path.basename(sys.argv[0])
with open(os.environ['CALLS'], 'a') as calls:
    print(json.dumps([name, *sys.argv[1:]]), file=calls)
if name == 'srun':
    program = next(i for i, word in enumerate(sys.argv[1:], 1) if not word.startswith('-'))
    os.execvp(sys.argv[program], sys.argv[program:])
"""
PROGRAMS = ('make', 'pip', 'python', 'srun')
NEEDED_BY_THE_SCRIPTS = ('bash', 'dirname', 'sed')


def test_no_block_is_left_out():
    found = [block for page in PAGES for block in blocks(page)]
    assert not [f'{block}: {block.language!r}' for block in found if block.language not in LANGUAGES]
    assert set(SLOW) < set(PAGES)
    assert {block.language for block in found} == set(LANGUAGES)


def run_python(pages, folder):
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'tools')]))
    command = [sys.executable, '-m', 'tests.docs.run_pages', *pages]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    wanted = {f'passed {block}' for page in pages for block in blocks(page) if block.language == 'python'}
    assert wanted <= set(done.stdout.splitlines())


def test_python(tmp_path):
    run_python([page for page in PAGES if page not in SLOW], tmp_path)


@pytest.mark.slow
def test_python_of_exports(tmp_path):
    run_python(SLOW, tmp_path)


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('programs')
    for name in PROGRAMS:
        (folder / name).write_text(PROGRAM)
        (folder / name).chmod(0o755)
    for name in NEEDED_BY_THE_SCRIPTS:
        (folder / name).symlink_to(f'/usr/bin/{name}')
    return folder


def calls_of(block, programs, folder) -> list[list[str]]:
    """What the block calls, a list of words each."""
    for name in ('tools', 'configs', '.venv'):
        (folder / name).unlink(missing_ok=True)
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    log = folder / 'calls'
    log.write_text('')
    env = dict(PATH=str(programs), CALLS=str(log))
    done = subprocess.run(
        ['/bin/bash', '-e', '-c', block.text], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f'{block}: {done.stderr}'
    return [json.loads(line) for line in log.read_text().splitlines()]


def check_tool(name: str, words: list[str]) -> None:
    """The tool's own parser takes the words, and configs of this project that they name exist."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser, args=None, namespace=None):
        parse(parser, words)
        raise ParsedError

    with (
        mock.patch.object(argparse.ArgumentParser, 'parse_args', stop),
        mock.patch.object(sys, 'argv', [name, *words]),
        pytest.raises(ParsedError),
    ):
        load_tool(name).main()
    assert not [word for word in words if word.startswith('configs/') and not (ROOT / word).exists()]


def check_module(name: str, words: list[str]) -> None:
    if name == 'torch.distributed.run':
        at = next(i for i, word in enumerate(words) if word.endswith('.py'))
        check_script(words[at:])
    elif name == 'pytest':
        assert all((ROOT / word).exists() for word in words)
    else:
        assert importlib.util.find_spec(name), name


def check_script(words: list[str]) -> None:
    path = Path(words[0])
    if path.parts[-4:-1] == ('/', '.mim', 'tools') or str(path) == '/.mim/tools/train.py':
        return  # mmdet's own; tests/tools/test_train_real.py runs it
    assert path.parts[-2] == 'tools' and (ROOT / 'tools' / path.name).exists(), path
    check_tool(path.stem, words[1:])


def check_call(program: str, *words: str) -> None:
    words = [word for word in words if word != '-u']
    if program == 'make':
        targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
        assert set(words) <= set(targets), words
    elif program == 'pip':
        extras = re.findall(r'^(\w+) = \[', (ROOT / 'pyproject.toml').read_text(), re.MULTILINE)
        assert words[0] == 'install'
        for word in words[1:]:
            local = re.fullmatch(r'\.(?:\[([\w,]+)\])?', word)
            if local and local[1]:
                assert set(local[1].split(',')) <= set(extras), word
    elif program == 'python' and words[0] == '-m':
        check_module(words[1], words[2:])
    elif program == 'python' and words[0] != '-c':
        check_script(words)


PAGES_WITH_COMMANDS = [page for page in PAGES if any(block.language == 'bash' for block in blocks(page))]


@pytest.mark.parametrize('page', PAGES_WITH_COMMANDS)
def test_commands(page, programs, tmp_path):
    for block in blocks(page):
        if block.language != 'bash':
            continue
        calls = calls_of(block, programs, tmp_path)
        assert calls, f'{block} calls nothing'
        for call in calls:
            try:
                check_call(*call)
            except SystemExit as error:
                raise AssertionError(f'{block}: {" ".join(call)} is refused by its parser') from error
