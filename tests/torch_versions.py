# SPDX-License-Identifier: Apache-2.0
"""Marks for what an older torch cannot do, so that the rest is tested there too."""

import pytest
import torch
import torch.export

VERSION = tuple(map(int, torch.__version__.split('.')[:2]))

needs_stable_abi = pytest.mark.skipif(VERSION < (2, 10), reason='torch < 2.10 has no stable ABI')
needs_compile = pytest.mark.skipif(VERSION < (2, 4), reason='torch.compile is served from torch 2.4 on')
needs_opcheck = pytest.mark.skipif(VERSION < (2, 5), reason='torch < 2.5 has no opcheck with tolerances')
needs_export = pytest.mark.skipif(
    VERSION < (2, 6), reason='exports with open sizes are served from torch 2.6 on'
)
needs_onnx_nodes = pytest.mark.skipif(VERSION < (2, 8), reason='torch < 2.8: no nodes of our own by dynamo')
needs_weights_only = pytest.mark.skipif(VERSION < (2, 6), reason='torch < 2.6: checkpoints are trusted')
needs_float16 = pytest.mark.skipif(VERSION < (2, 4), reason='torch < 2.4 has no float16 layers on CPU')

# None where torch has none, which needs_export skips.
DYNAMIC = getattr(getattr(torch.export, 'Dim', None), 'DYNAMIC', None)
FLOAT16 = pytest.param(torch.float16, marks=needs_float16)
