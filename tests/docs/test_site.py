# SPDX-License-Identifier: Apache-2.0
"""The site builds strictly, the tutorial runs, and what docstrings refer to is there."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import carafe_plugin

from .snippets import ROOT

NOTEBOOK = ROOT / 'docs' / 'tutorial.ipynb'
ROLE = re.compile(r':(?:class|data|func|meth|mod):`((?:carafe_plugin|mmdet|mmengine|mmseg|torch)\.[\w.]+)`')
REFERENCES = sorted(
    {
        role
        for path in Path(carafe_plugin.__file__).parent.rglob('*.py')
        for role in ROLE.findall(path.read_text())
    }
)


def undocumented(pages: Path) -> list[str]:
    """Public names that have no place on the page of their package."""
    missing = []
    for page in pages.iterdir():
        if page.name != 'package':
            names = importlib.import_module(f'carafe_plugin.{page.name}').__all__
            places = re.findall(r'id="carafe_plugin\.(?:\w+\.)*(\w+)"', (page / 'index.html').read_text())
            missing += set(names) - set(places)
    return missing


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        None,
        ('docs/start.md', '(swap.md)', '(swop.md)', 'swop.md'),
        ('docs/start.md', '(own_data.md)', '(own_data.md#nowhere)', 'nowhere'),
        ('docs/api/ops.md', 'carafe_plugin.ops', 'carafe_plugin.opps', 'carafe_plugin.opps'),
        ('mkdocs.yml', '- swap.md', '- swop.md', 'swop.md'),
    ],
    ids=['as it is', 'a link', 'an anchor', 'an object', 'a page of the navigation'],
)
def test_site(tmp_path, change):
    """As it is, and not with a fault in it; the notebook is left to its own test."""
    pytest.importorskip('mkdocs', reason='the site needs requirements/docs.txt')
    for path in ROOT.iterdir():
        if path.name not in ('docs', 'mkdocs.yml', 'build', '.git'):
            (tmp_path / path.name).symlink_to(path)
    subprocess.run(['cp', '-r', ROOT / 'docs', ROOT / 'mkdocs.yml', tmp_path], check=True)
    config = tmp_path / 'mkdocs.yml'
    config.write_text(config.read_text().replace('execute: true', 'execute: false'))
    if change:
        page = tmp_path / change[0]
        text = page.read_text().replace(change[1], change[2])
        assert text != page.read_text()
        page.write_text(text)
    command = [sys.executable, '-m', 'mkdocs', 'build']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if change:
        assert done.returncode and change[3] in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / 'build/site/ops/NOTES/index.html').is_file()
        assert not set(undocumented(tmp_path / 'build/site/api')) - {'UPSAMPLERS', 'DOWNSAMPLERS'}


@pytest.mark.slow
def test_tutorial(tmp_path):
    nbclient = pytest.importorskip('nbclient', reason='the notebook needs requirements/docs.txt')
    nbformat = pytest.importorskip('nbformat', reason='the notebook needs requirements/docs.txt')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = dict(metadata=dict(path=tmp_path))
    nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3', resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
    assert sum('image/png' in output.get('data', ()) for output in outputs) == 2
    assert 'largest difference from PyTorch' in json.dumps(outputs)


def test_tutorial_is_stored_without_outputs():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())['cells'] if cell['cell_type'] == 'code']
    assert cells and not any(cell['outputs'] or cell['execution_count'] for cell in cells)


def find(name: str) -> object:
    """The object of a dotted name: a module, or an attribute of the longest part that is one."""
    module, _, attribute = name.rpartition('.')
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(find(module), attribute)


def test_references_in_docstrings():
    assert REFERENCES
    for name in REFERENCES:
        find(name)
