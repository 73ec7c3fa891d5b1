# SPDX-License-Identifier: Apache-2.0
"""Names that configs in work_dirs hold stay importable, in silence."""

import importlib
import warnings

from carafe_plugin import runtime


def test_the_first_name_of_the_runtime():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        engine = importlib.import_module('carafe_plugin.engine')
    assert {name: getattr(engine, name) for name in runtime.__all__} == {
        name: getattr(runtime, name) for name in runtime.__all__
    }
