# SPDX-License-Identifier: Apache-2.0
"""A checkout whose native library is not built passes its tests, on the reference form."""


def pytest_configure(config):
    config.addinivalue_line('filterwarnings', 'default:carafe_plugin runs its plain PyTorch operators')
