# SPDX-License-Identifier: Apache-2.0
"""The check of a pyramid that every neck makes before it looks at a map."""

from collections.abc import Sequence

from torch import Tensor


def require_levels(maps: Sequence[Tensor], in_channels: Sequence[int]) -> None:
    """Raise a ValueError unless there is one map for each of ``in_channels``."""
    if len(maps) != len(in_channels):
        raise ValueError(
            f'{len(in_channels)} maps are expected, of in_channels={list(in_channels)}, got {len(maps)}: '
            f'{", ".join(str(tuple(x.shape)) for x in maps)}'
        )
