# SPDX-License-Identifier: Apache-2.0
"""No argument of our constructors is idle: another value changes the output or the parameters, or is refused.

The table has a case for each argument in a signature that this project wrote, of each class that it registers
or exports. ``*args`` and ``**kwargs`` go to a stock class and are its own affair.
"""

import copy
import importlib
import inspect
import pkgutil

import mmdet.registry
import mmengine.registry
import mmseg.registry
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

import carafe_plugin
from carafe_plugin.downsamplers import DOWNSAMPLERS, Downsampler
from carafe_plugin.inpainting import RandomHole
from carafe_plugin.upsamplers import UPSAMPLERS, GuidedUpsampler, Upsampler
from tests.argument_cases import CASES, FUNCTIONS, GIVEN, Refused
from tests.inpainting.pictures import write_pictures
from tests.inpainting.test_losses import write_weights

OURS = ('carafe_plugin.', 'carafe_tools.')
ABSTRACT = (Upsampler, GuidedUpsampler, Downsampler)
PACKAGES = [
    importlib.import_module(f'carafe_plugin.{module.name}')
    for module in pkgutil.iter_modules(carafe_plugin.__path__)
    if module.ispkg and not module.name.startswith('_')
]


def classes() -> list[type]:
    """Every class that we register or export."""
    found = [cls for registry in (UPSAMPLERS, DOWNSAMPLERS) for cls in map(registry.get, registry)]
    found += [getattr(package, name) for package in PACKAGES for name in getattr(package, '__all__', ())]
    for module in (mmengine.registry, mmdet.registry, mmseg.registry):
        for registry in vars(module).values():
            if isinstance(registry, mmengine.registry.Registry):
                found += registry.module_dict.values()
    ours = [cls for cls in found if isinstance(cls, type) and cls.__module__.startswith(OURS)]
    return list(dict.fromkeys(cls for cls in ours if cls not in ABSTRACT))


def own_arguments(cls: type) -> set[str]:
    """Arguments of the constructor; none where the first one among the bases is not ours."""
    owner = next(base for base in cls.__mro__ if '__init__' in vars(base))
    if not owner.__module__.startswith(OURS):
        return set()
    parameters = inspect.signature(cls).parameters.values()
    return {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def name_of(cls: type) -> str:
    return '.'.join(cls.__module__.split('.')[:2]) + '.' + cls.__name__


def test_every_argument_has_a_case():
    wanted = {name_of(cls): own_arguments(cls) for cls in classes() if own_arguments(cls)}
    assert {name_of(cls): set(case.changes) for cls, case in CASES.items()} == wanted
    assert set(FUNCTIONS) == set(RandomHole.KINDS.values())
    for function, changes in FUNCTIONS.items():
        assert set(changes) == inspect.signature(function).parameters.keys() - set(GIVEN)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two folders of pictures, a list of one of them, and weights, as the table names them."""
    path = tmp_path_factory.mktemp('arguments')
    write_pictures(path / 'pictures', height=60, width=70)
    write_pictures(path / 'others', count=2, height=20)
    (path / 'list.txt').write_text('1.png\n')
    write_weights(path / 'vgg.pth')
    return path


def shapes(subject: object) -> dict:
    state = subject.state_dict() if isinstance(subject, nn.Module) else {}
    return {name: tuple(value.shape) for name, value in state.items()}


def equal(first: object, second: object) -> bool:
    """Whether two trees of tensors, arrays and other values are the same."""
    (leaves, structure), (others, other_structure) = map(tree_flatten, (first, second))
    if structure != other_structure:
        return False
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else np.array_equal(a, b)
        for a, b in zip(leaves, others, strict=True)
    )


@pytest.mark.parametrize(
    'cls, argument',
    [
        pytest.param(cls, name, id=f'{name_of(cls)}-{name}')
        for cls, case in CASES.items()
        for name in case.changes
    ],
)
def test_another_value_shows(cls, argument, folder, monkeypatch):
    monkeypatch.chdir(folder)
    case = CASES[cls]
    change, subject = case.changes[argument], case.make(cls)
    state = None
    if isinstance(subject, nn.Module):
        for p in subject.parameters():  # so that every term counts
            nn.init.normal_(p, std=0.3)
        state = copy.deepcopy(subject.state_dict())
    before = case.run(subject)
    if isinstance(change, Refused):
        with pytest.raises(Exception, match=change.match):
            case.run(case.make(cls, **{argument: change.value}))
        return

    same, other = case.make(cls), case.make(cls, **{argument: change})
    if shapes(other) != shapes(same):
        return
    for again in (same, other):
        if state is not None:
            again.load_state_dict(state)
    assert equal(before, case.run(same)), 'without a change the result must be the same'
    assert not equal(before, case.run(other))


@pytest.mark.parametrize(
    'function, argument', [(f, name) for f, changes in FUNCTIONS.items() for name in changes]
)
def test_another_value_shows_in_a_hole(function, argument):
    def draw(**change):
        return function(200, 210, np.random.default_rng(0), **change)

    assert np.array_equal(draw(), draw())
    assert not np.array_equal(draw(), draw(**{argument: FUNCTIONS[function][argument]}))
