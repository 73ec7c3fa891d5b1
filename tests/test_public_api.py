# SPDX-License-Identifier: Apache-2.0
"""What users can name, held to ``public_api.txt``, so that a review sees every change of it.

After a change that is meant, ``.venv/bin/python -m tests.test_public_api`` writes the file anew.
"""

import argparse
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import carafe_plugin
from tests.runtime.helpers import load_tool

ROOT = Path(__file__).resolve().parent.parent
FILE = Path(__file__).with_name('public_api.txt')
PACKAGES = (
    'carafe_plugin',
    'carafe_plugin.onnx_domain',
    'carafe_plugin.openvino',
    'carafe_plugin.ops',
    'carafe_plugin.upsamplers',
    'carafe_plugin.downsamplers',
    'carafe_plugin.detection',
    'carafe_plugin.segmentation',
    'carafe_plugin.inpainting',
    'carafe_plugin.probes',
    'carafe_plugin.runtime',
)


def describe_package(package: str) -> Iterator[str]:
    yield f'\n[{package}]'
    module = importlib.import_module(package)
    for name in sorted(module.__all__):
        member = getattr(module, name)
        if inspect.isclass(member):
            yield from describe_class(name, member)
        elif inspect.isroutine(member):
            yield from describe_call(name, member)
        elif isinstance(member, type(carafe_plugin.UPSAMPLERS)):
            yield f'{name}: {", ".join(member)}'
        else:
            yield f'{name} = {member!r}'


def describe_class(name: str, cls: type) -> Iterator[str]:
    """Its arguments, and what it adds to its bases that are public or not ours."""
    first = next(base for base in cls.__mro__ if '__init__' in vars(base))
    if ours(first) or first is object:
        yield from describe_call(f'class {name}', cls)
    else:
        yield f'class {name}, arguments of {first.__name__}'
    added = {}
    for base in cls.__mro__:
        public = base is not cls and base.__name__ in getattr(parent_package(base), '__all__', ())
        if ours(base) and not public:
            added = vars(base) | added
    for member, value in sorted(added.items()):
        if member.startswith('_'):
            continue
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if inspect.isfunction(value):
            yield from describe_call(f'    {member}', value)
        elif isinstance(value, property):
            yield f'    {member}: property'
        elif isinstance(value, (bool, int, float, str)):
            yield f'    {member} = {value!r}'


def describe_call(name: str, function) -> Iterator[str]:
    text = re.sub(r'(\w+\.)+(?=[A-Z])', '', f'{name}{inspect.signature(function)}')  # no modules of classes
    # Lines end between arguments.
    glued = text.strip().replace(' ', '\0').replace(',\0', ', ')
    indent = ' ' * (len(text) - len(text.lstrip()))
    lines = textwrap.wrap(glued, 100, initial_indent=indent, subsequent_indent=indent + ' ' * 8)
    yield from (line.replace('\0', ' ') for line in lines)


def ours(cls: type) -> bool:
    return cls.__module__.split('.')[0] == 'carafe_plugin'


def parent_package(cls: type):
    return sys.modules['.'.join(cls.__module__.split('.')[:2])]


class ParsedError(Exception):
    """Carries the parser out of the tool that is about to use it."""


def describe_tool(path: Path) -> Iterator[str]:
    yield f'\n[tools/{path.name}]'

    def stop(parser, *args, **kwargs):
        raise ParsedError(parser)

    # Defaults are those of a machine without a GPU.
    with (
        mock.patch.object(argparse.ArgumentParser, 'parse_args', stop),
        mock.patch.object(sys, 'argv', [path.name]),
        mock.patch('torch.cuda.is_available', return_value=False),
    ):
        try:
            load_tool(path.stem).main()
        except ParsedError as parsed:
            yield from describe_parser(parsed.args[0])


def describe_parser(parser: argparse.ArgumentParser, indent: str = '') -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f'{indent}{name}'
                yield from describe_parser(command, indent + '    ')
            continue
        facts = [', '.join(action.option_strings) or action.dest]
        if action.nargs == 0:
            facts.append('switch')
        else:
            names = ('nargs', 'const', 'choices', 'default')
            facts += [f'{name}={value!s}' for name in names if (value := getattr(action, name)) is not None]
        if action.required and action.option_strings:
            facts.append('required')
        yield indent + '; '.join(facts)


def describe() -> str:
    lines = [f'# Written by `python -m {Path(__file__).relative_to(ROOT).with_suffix("")}`'.replace('/', '.')]
    for package in PACKAGES:
        lines += describe_package(package)
    for path in sorted((ROOT / 'tools').glob('*.py')):
        if 'import argparse' in path.read_text():
            lines += describe_tool(path)
    return '\n'.join(lines) + '\n'


def test_public_api(tmp_path):
    # In a process of its own: other tests register upsamplers.
    file = tmp_path / FILE.name
    subprocess.run([sys.executable, '-m', 'tests.test_public_api', file], cwd=ROOT, check=True)
    assert file.read_text() == FILE.read_text()


if __name__ == '__main__':
    sys.path.append(str(ROOT / 'tools'))  # as tests/conftest.py does
    Path(sys.argv[1] if sys.argv[1:] else FILE).write_text(describe())
