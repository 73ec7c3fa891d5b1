# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings run as a reader would paste them: with no name but those they import."""

import doctest
import importlib
from pathlib import Path

import pytest

import carafe_plugin

PACKAGE = Path(carafe_plugin.__file__).parent
WITH_EXAMPLES = sorted(
    '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts).removesuffix('.__init__')
    for path in PACKAGE.rglob('*.py')
    if '>>> ' in path.read_text()
)


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_examples(name):
    examples = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name), globs={})
    runner = doctest.DocTestRunner(verbose=False)
    report = []
    for example in examples:
        runner.run(example, out=report.append)
    assert runner.summarize(verbose=False).attempted, f'no example was found in {name}'
    assert not report, ''.join(report)
