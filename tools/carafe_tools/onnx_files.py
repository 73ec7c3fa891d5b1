# SPDX-License-Identifier: Apache-2.0
"""What the two exports of ``tools/export_onnx.py`` share."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from carafe_plugin import onnx_domain
from carafe_plugin.runtime.errors import UserError


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Let a file be written and checked in a folder of its own beside ``path``, and then take its place.

    A :class:`UserError` on the way names ``path``, and leaves what is there as it is.
    """
    with tempfile.TemporaryDirectory(prefix=f'.{path.stem}-', dir=path.parent) as folder:
        part = Path(folder, path.name)
        try:
            yield part
        except UserError as error:
            raise UserError(str(error).replace(str(part), str(path))) from error
        # Weights of more than 2 GB are a file beside it.
        for file in sorted(Path(folder).iterdir(), key=part.__eq__):
            os.replace(file, path.with_name(file.name))


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
