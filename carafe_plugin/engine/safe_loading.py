# SPDX-License-Identifier: Apache-2.0
"""mmengine's checkpoints under torch's ``weights_only``, or below torch 2.6 under a rule as strict."""

import _codecs
import _compat_pickle
import pickle
import types

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_STATISTICS = ('min', 'max', 'mean', 'current')
# torch 2.6: before it nothing can be let in under another name, nor an object of a class of somebody else's.
_TORCH_LETS_IN = tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 6)


def _history_buffer_statistic(owner: object, name: str) -> object:
    """Stand in for ``getattr`` while a checkpoint is read; knows HistoryBuffer's own statistics alone."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'not let in: attribute {name!r} of {owner!r}')


def _let_in() -> list:
    """Classes and functions, or pairs of one and its name in the file.

    mmengine's checkpoints hold the loss curves as ``HistoryBuffer`` objects: numpy arrays, and references to
    four methods that pickle writes as ``getattr`` calls.
    """
    # numpy 1 and numpy 2 write these two under different names; numpy 1.26 has an empty _core.
    multiarray = (np._core if int(np.__version__.partition('.')[0]) >= 2 else np.core).multiarray
    rebuilders = [
        (rebuild, f'numpy.{core}.multiarray.{rebuild.__name__}')
        for rebuild in (multiarray._reconstruct, multiarray.scalar)
        for core in ('core', '_core')
    ]
    # Numbers, booleans and text; not the object dtype.
    dtypes = {type(np.dtype(code)) for code in '?bhilqBHILQefdgFDGSU'}
    return [
        HistoryBuffer,
        (_history_buffer_statistic, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *rebuilders,
        *dtypes,
    ]


def _plain_dtype(*args) -> np.dtype:
    dtype = np.dtype(*args)
    if dtype.hasobject:
        raise pickle.UnpicklingError('not let in: GLOBAL numpy.dtypes.ObjectDType')
    return dtype


class _Unpickler(pickle.Unpickler):
    """Finds what torch's own ``weights_only`` finds, and what :func:`_let_in` lists."""

    def find_class(self, module: str, name: str) -> object:
        # The names of Python 2, which pickle writes by default.
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        allowed = torch._weights_only_unpickler._get_allowed_globals()
        ours = [x if isinstance(x, tuple) else (x, f'{x.__module__}.{x.__name__}') for x in _let_in()]
        # How pickle writes bytes in its older protocols.
        extra = {'numpy.dtype': _plain_dtype, '_codecs.encode': _codecs.encode}
        allowed = allowed | {full: found for found, full in ours} | extra
        if f'{module}.{name}' not in allowed:
            raise pickle.UnpicklingError(f'not let in: GLOBAL {module}.{name}')
        return allowed[f'{module}.{name}']


def enable_safe_loading() -> None:
    """Let ``torch.load`` read mmengine's checkpoints without giving up ``weights_only``.

    Nothing else is let in; a checkpoint with another class stays refused. Below torch 2.6, where files of any
    content load by default, this changes nothing.
    """
    if _TORCH_LETS_IN:
        torch.serialization.add_safe_globals(_let_in())


def load(path: str, mmap: bool) -> object:
    """``torch.load`` to the CPU that lets in what mmengine's checkpoints hold, with every torch."""
    if _TORCH_LETS_IN:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    module = types.ModuleType('restricted_pickle')
    module.Unpickler = _Unpickler
    module.load = lambda file, **options: _Unpickler(file, **options).load()
    return torch.load(path, map_location='cpu', weights_only=False, mmap=mmap, pickle_module=module)
