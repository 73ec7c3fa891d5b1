# SPDX-License-Identifier: Apache-2.0
"""mmengine's checkpoints under torch's ``weights_only``, from torch 2.6 on."""

import pickle

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


def enable_safe_loading() -> None:
    """Let ``torch.load`` read mmengine's checkpoints without giving up ``weights_only``.

    Nothing else is let in; a checkpoint with another class stays refused. Below torch 2.6, where files of any
    content load by default, this changes nothing.
    """
    if _TORCH_LETS_IN:
        torch.serialization.add_safe_globals(_let_in())


def load(path: str, mmap: bool) -> object:
    """``torch.load`` to the CPU of what mmengine's checkpoints hold.

    Below torch 2.6 a checkpoint is trusted, as mmengine trusts it there.
    """
    return torch.load(path, map_location='cpu', weights_only=_TORCH_LETS_IN, mmap=mmap)
