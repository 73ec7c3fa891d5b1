# SPDX-License-Identifier: Apache-2.0
"""The operators in OpenVINO: the extension that is built where openvino is, and files that hold its nodes."""

import importlib.metadata
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from .onnx_domain import DOMAIN, check_file

if TYPE_CHECKING:
    import openvino

__all__ = ['extension_path', 'read_model']


def extension_path() -> str:
    """Path of the extension for the installed openvino, for ``openvino.Core().add_extension``.

    Raises:
        FileNotFoundError: openvino is not installed, or no extension is built for its version.
    """
    try:
        version = importlib.metadata.version('openvino')
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError('openvino is not installed: pip install openvino') from None
    # CARAFE_LIBRARY_DIR is the folder of another build. ops/build_native.py gives these names.
    folder = Path(os.environ.get('CARAFE_LIBRARY_DIR') or Path(__file__).resolve().parent)
    path = folder / f'_C_openvino_{re.sub("[^0-9a-z]", "_", version)}.so'
    if not path.exists():
        others = [f', but {other.name}' for other in sorted(folder.glob('_C_openvino_*.so'))]
        raise FileNotFoundError(
            f'no extension is built for OpenVINO {version}{"".join(others[-1:])}; '
            'in the source folder, make openvino, or '
            'CARAFE_OPENVINO=1 pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation .'
        )
    return str(path)


def read_model(core: 'openvino.Core', path: str | os.PathLike[str]) -> 'openvino.Model':
    """Read an ONNX file that holds the operators as nodes of their own.

    The extension, which is added to ``core``, runs them. Where none is built, the standard operators in the
    file's functions take their places, with a warning; OpenVINO by itself looks at no functions.

    Args:
        core: an ``openvino.Core``.
        path: an ONNX file, ``.onnx``. Files of other endings are read as by ``core.read_model``.

    Raises:
        ValueError: it is no ONNX file; its operators have another version than this release knows; or they
            have no functions, where no extension is built.
        FileNotFoundError: the file is not there.
    """
    import onnx.inliner

    if Path(path).suffix != '.onnx':
        return core.read_model(path)
    structure = check_file(path)
    if any(opset.domain == DOMAIN for opset in structure.opset_import):
        try:
            core.add_extension(extension_path())
        except FileNotFoundError as error:
            model = onnx.inliner.inline_local_functions(structure)
            if any(node.domain == DOMAIN for node in model.graph.node):
                raise ValueError(
                    f'{path}: nodes of {DOMAIN} have no functions, which onnx_domain.add_functions gives it, '
                    f'and {error}'
                ) from error
            warnings.warn(f'standard operators serve: {error}', RuntimeWarning, stacklevel=2)
            return core.read_model(model.SerializeToString(), b'')
    return core.read_model(path)
