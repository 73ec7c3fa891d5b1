# SPDX-License-Identifier: Apache-2.0
"""What the two exports of ``tools/export_onnx.py`` share."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from carafe_plugin import onnx_domain
from carafe_plugin.runtime.errors import UserError


@contextlib.contextmanager
def operators_as_nodes(path: Path, wanted: bool) -> Iterator[None]:
    """Let what is exported into ``path`` have nodes of the domain ``carafe_plugin``, and give them functions.

    Raises:
        UserError: the file has no such node, or its opset is none that functions are written for.
    """
    if not wanted:
        yield
        return
    with onnx_domain.domain_operators():
        yield
    try:
        count = onnx_domain.add_functions(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not count:
        raise UserError('the model has no operator of this package, so --domain-ops has no use')
    print(f'{count} nodes of the domain {onnx_domain.DOMAIN}')
