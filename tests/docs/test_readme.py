# SPDX-License-Identifier: Apache-2.0
"""The table of the README against the committed measurements, the layers and the published figures."""

import json
import re

import pytest

from carafe_plugin.upsamplers import UPSAMPLERS
from carafe_tools.costs import upsampler_cost
from tests.runtime.helpers import ROOT

CPU, GPU = ROOT / 'benchmarks/cpu-epyc-zen4-2core/module.json', ROOT / 'benchmarks/NVIDIA-H200/module.json'
NOISY = 25  # percent of spread from which on the README writes ~
NO_AP = {'bilinear'}  # which that source does not list


def cells(line):
    return [cell.strip() for cell in line.strip().strip('|').split('|')]


def rows(path, columns):
    """The first cells of a table's rows that start with a name in backquotes, by that name."""
    lines = [cells(line) for line in (ROOT / path).read_text().splitlines() if line.startswith('| `')]
    found = {line[0].strip('`'): line for line in lines if len(line) == columns}
    return {name: line for name, line in found.items() if name in UPSAMPLERS}


README = rows('README.md', 7)


def measured(path, name, size):
    (found,) = (
        r for r in json.loads(path.read_text())['results'] if (r['upsampler'], r['size']) == (name, size)
    )
    return found


def test_there_is_a_table():
    assert {'nearest', 'bilinear', 'carafe', 'dysample', 'freqfusion'} <= README.keys()


@pytest.mark.parametrize('name', README)
def test_figures_are_those_of_their_sources(name):
    _, guide, parameters, flops, cpu, gpu, published = README[name]
    cost = upsampler_cost(dict(type=name), 256, 2)
    assert parameters == f'{cost.parameters:,}'
    assert flops == f'{cost.flops / 1e3:.1f}'
    assert (guide == 'yes') == UPSAMPLERS.get(name).needs_guide
    for told, path, size in ((cpu, CPU, '1x256x50x84'), (gpu, GPU, '1x256x100x168')):
        row = measured(path, name, size)
        noisy = int(re.match(r'\d+', row['forward_spread']).group()) >= NOISY
        assert float(told.removeprefix('~ ')) == pytest.approx(row['forward_ms'], rel=5e-3)
        assert told.startswith('~ ') == noisy
    known = rows('configs/README.md', 4)[name][2].replace('(SAPA-B)', '').strip() if name not in NO_AP else ''
    assert published == known
