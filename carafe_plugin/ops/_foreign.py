# SPDX-License-Identifier: Apache-2.0
"""Another package's operator, where no native one of ours serves; others enter it, ops knows torch alone."""

from collections.abc import Callable

from torch import Tensor

from . import _native
from ._checks import Sizes

_choose: Callable | None = None


def enter(choose: Callable[[str, Tensor, Tensor, Sizes], Callable | None]) -> None:
    """Enter it. ``choose`` gets what :func:`operator` gets; its function takes two tensors and the sizes."""
    global _choose
    _choose = choose


def operator(name: str, features: Tensor, other: Tensor, sizes: Sizes) -> Callable | None:
    """What was entered for this call, or None where the reference form serves."""
    if _choose is None or _native.is_plain():
        return None
    return _choose(name, features, other, sizes)
