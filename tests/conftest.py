# SPDX-License-Identifier: Apache-2.0
"""For every test: the reference form may serve, and no default scope of mmengine is left behind."""

import sys

import pytest


def pytest_configure(config):
    # A checkout whose native library is not built passes its tests, on the reference form.
    config.addinivalue_line('filterwarnings', 'default:carafe_plugin runs its plain PyTorch operators')


@pytest.fixture(autouse=True)
def _scope_is_put_back():
    """A Runner or a toolbox's init leaves a scope behind, in which the next test would build."""
    before = dict(_scopes())
    yield
    scopes = _scopes()
    scopes.clear()
    scopes.update(before)


def _scopes():
    module = sys.modules.get('mmengine.registry.default_scope')
    return module.DefaultScope._instance_dict if module else {}
