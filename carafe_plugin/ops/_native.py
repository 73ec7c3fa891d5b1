# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the native libraries, and says for each call whether one serves.

The CUDA library serves on GPUs that have proven it (``_proven.py``).
"""

import contextlib
import ctypes
import functools
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import compat
from ._proven import why_unproven

# From here on one library serves every torch, through its stable ABI; before, each minor version has its own.
STABLE_TORCH = (2, 10)
# In this order: the first one defines the operators, the second adds its kernels to them.
DEVICES = ('cpu', 'cuda')
_AGAIN = '--force-reinstall --no-deps --no-cache-dir --no-build-isolation'
DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))

#: Device type to the path of its library, and, where there is none, to the reason.
loaded: dict[str, str] = {}
missing: dict[str, str] = {}

_warned: set[str] = set()
# How many plain_operators() are open.
_plain = 0


@contextlib.contextmanager
def plain_operators() -> Iterator[None]:
    """Run the plain PyTorch form of the operators in the block, on every device and in every thread.

    The results are those of the native operators, to rounding; a graph that is traced in the block holds
    PyTorch's own operators alone. Backward passes follow the form that their forward pass had.

    Example:
        >>> import torch, carafe_plugin
        >>> upsampler = carafe_plugin.build_upsampler(dict(type='carafe'), 8).eval()
        >>> with carafe_plugin.plain_operators():
        ...     traced = torch.jit.trace(upsampler, torch.rand(1, 8, 6, 7))
        >>> 'carafe_plugin::' in str(traced.inlined_graph)
        False
    """
    global _plain
    _plain += 1
    try:
        yield
    finally:
        _plain -= 1


def is_plain() -> bool:
    """Whether the plain form was asked for, by :func:`plain_operators` or by ``CARAFE_NATIVE=0``."""
    return bool(_plain) or os.environ.get('CARAFE_NATIVE') == '0'


def operator(name: str, features: Tensor, other: Tensor) -> Callable[..., Any] | None:
    """The native operator for these tensors, or None where another form serves.

    An ONNX graph holds standard operators only, so its exporters always get the reference form. So does
    differentiation by ``torch.func``, and forward-mode differentiation anywhere: PyTorch takes no rule for
    them from a library; it would stop, and in forward mode give zeros without a word.
    """
    if _plain:
        return None
    why = why_not(features.device)
    if why:
        _warn_once(features.device.type, why)
        return None
    if features.dtype not in DTYPES or other.dtype not in DTYPES or torch.onnx.is_in_onnx_export():
        return None
    if forward_ad._current_level >= 0 or compat.is_differentiated_by_func():
        return None
    return getattr(torch.ops.carafe_plugin, name)


def why_not(device: str | torch.device) -> str | None:
    """Why no native library serves tensors on a device, in a clause; None where one does."""
    device = torch.device(device)
    if device.type not in loaded:
        return missing.get(device.type, f'none is written for {device.type}')
    return _why_unproven(device.index or 0) if device.type == 'cuda' else None


# For torch.compile a constant. This is torch.compiler.assume_constant_result, which imports the compiler.
why_not._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _why_unproven(gpu: int) -> str | None:
    try:
        capability = torch.cuda.get_device_capability(gpu)
    except RuntimeError as error:  # torch is built with CUDA, and finds no driver
        return f'torch finds no GPU: {str(error).splitlines()[0]}'
    return why_unproven('{}.{}'.format(*capability), cuda_sources())


def cuda_sources() -> str:
    """Hash of the sources of the loaded CUDA library, which ops/build_cuda.py has put into it."""
    first = ctypes.c_char.in_dll(ctypes.CDLL(loaded['cuda']), 'carafe_cuda_sources')
    return ctypes.string_at(ctypes.addressof(first)).decode()


def binding() -> str:
    """How a library is bound to this torch, for the report on the environment."""
    if compat.VERSION >= STABLE_TORCH:
        return 'stable ABI, for torch 2.10 and later'
    return f'ATen, for torch {".".join(map(str, compat.VERSION))} alone'


def _load(device: str) -> None:
    # CARAFE_LIBRARY_DIR is the folder of another build, such as the one under sanitizers.
    folder = Path(os.environ.get('CARAFE_LIBRARY_DIR') or Path(__file__).resolve().parent.parent)
    # ops/build_native.py gives these names.
    suffix = '' if compat.VERSION >= STABLE_TORCH else '_torch{}_{}'.format(*compat.VERSION)
    path = folder / f'_C_{device}{suffix}.so'
    if os.environ.get('CARAFE_NATIVE') == '0':
        missing[device] = 'switched off by CARAFE_NATIVE=0'
    elif device == 'cuda' and torch.version.cuda is None:
        missing[device] = 'torch is a CPU build'
    elif device == 'cuda' and 'cpu' not in loaded:
        missing[device] = f'the CPU library, which defines the operators, is missing: {missing["cpu"]}'
    elif device == 'cuda' and suffix:
        missing[device] = f'torch {torch.__version__} is older than {".".join(map(str, STABLE_TORCH))}'
    elif not path.exists():
        missing[device] = _why_not_built(device, folder)
    else:
        try:
            if device == 'cuda':
                _load_libtorch_cuda()
            torch.ops.load_library(path)
        except OSError as error:
            missing[device] = f'{path.name} does not load: {error}'
        else:
            loaded[device] = str(path)
            if device == 'cpu':
                _look_at_wish()


def _look_at_wish() -> None:
    wish, used = os.environ.get('CARAFE_CPU_ISA'), torch.ops.carafe_plugin.cpu_capability()
    if wish and wish != used:
        warnings.warn(
            f'CARAFE_CPU_ISA={wish} is no instruction set of this processor and library; {used} serves',
            RuntimeWarning,
            stacklevel=2,
        )


def _why_not_built(device: str, folder: Path) -> str:
    again = f'in the source folder, pip install {_AGAIN} .'
    others = sorted(path.name for path in folder.glob(f'_C_{device}*.so'))
    if others:
        return f'{others[-1]} is for another torch than {torch.__version__}; compile one for this: {again}'
    if device == 'cuda':
        found = 'nvcc is there' if shutil.which('nvcc') else 'nvcc is lacking'
        return f'the CUDA library comes in no wheel and is compiled where nvcc is ({found}): {again}'
    return f'the library was not built; where a C++ compiler is: {again}'


def _load_libtorch_cuda() -> None:
    """Make libtorch_cuda's symbols visible: a library compiled beside a CPU torch does not name it."""
    library = Path(torch.__file__).parent / 'lib' / 'libtorch_cuda.so'
    if library.exists():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _warn_once(device: str, why: str) -> None:
    if compat.is_compiling() or device in _warned or device == 'meta':
        return
    _warned.add(device)
    if os.environ.get('CARAFE_NATIVE') != '0':
        # What carafe_plugin/runtime enters.
        beside = (
            " (mmcv's where mmcv has one, a host is imported and that is right)" if device == 'cuda' else ''
        )
        # Level 4: the caller of the public function.
        warnings.warn(
            f'carafe_plugin runs its plain PyTorch operators on {device}{beside}: {why}. On a CPU they take '
            'about 20 times as long as the native ones (docs/benchmark.md); unmeasured on a GPU. '
            'python -m carafe_plugin.env tells more.',
            RuntimeWarning,
            stacklevel=4,
        )


for _device in DEVICES:
    _load(_device)
if loaded:
    from . import _registrations  # noqa: F401
