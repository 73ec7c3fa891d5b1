# SPDX-License-Identifier: Apache-2.0
"""The call contract of an upsampler, and the one size policy that every top-down host shares."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_channels, require_positive_int
from carafe_plugin.ops.tensors import ints, is_exporting

from .published import rename_keys


def _entry(forward: Callable) -> Callable:
    """A ``forward`` that runs another method in its place where :meth:`Upsampler.enter` says so."""

    @functools.wraps(forward)
    def entry(self: nn.Module, *args: Any, _method: Callable | None = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs) if _method is None else _method(*args, **kwargs)

    entry.is_entry = True  # type: ignore[attr-defined]
    return entry


class Upsampler(nn.Module):
    """Base class: a map of ``in_channels`` channels, ``scale_factor`` times larger.

    A subclass takes ``(in_channels, scale_factor=2, *, ...)`` with its defaults written there and nowhere
    else, and overrides :meth:`forward`. One that reads a finer map derives from :class:`GuidedUpsampler`; one
    that merges the two maps in its own way overrides :meth:`fuse` as well. Methods other than ``forward``
    that read weights do so in a call of the module, see :meth:`enter`.

    Args:
        in_channels: channels of the map, kept by the upsampler.
        scale_factor: integer ratio >= 1 of output to input size.

    Raises:
        TypeError, ValueError: an argument is not a positive int.
    """

    needs_guide = False
    #: For weights of the published code: how a key begins there and here; None drops it.
    published_names: tuple[tuple[str, str | None], ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls.forward, 'is_entry'):
            cls.forward = _entry(cls.forward)  # type: ignore[method-assign]

    def __init__(self, in_channels: int, scale_factor: int = 2) -> None:
        super().__init__()
        self.in_channels = require_positive_int('in_channels', in_channels)
        self.scale_factor = require_positive_int('scale_factor', scale_factor)

    @_entry
    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Upsample ``x`` (N, C, H, W) to (N, C, s*H, s*W); ``guide`` is a finer map, if one is needed."""
        raise NotImplementedError

    def fuse(self, x: Tensor, guide: Tensor) -> Tensor:
        """Upsample ``x`` (N, C, H, W) and merge it with ``guide`` (N, C, h, w) by their sum."""
        require_channels('guide', guide, self.in_channels)
        return guide + fit(self(x, guide), guide.shape[-2:], self.scale_factor)

    def pair(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Upsample ``x`` (N, C, H, W) to the guide's size, for a concatenation: that map, and the guide."""
        return fit(self(x, guide), guide.shape[-2:], self.scale_factor), guide

    def enter(self, method: Callable, *args: Any) -> Any:
        """Run a method of this module, given bound, in a call of the module.

        Forward hooks and FSDP2, which gathers a module's weights, know of calls alone. So a method that reads
        weights and does not call the module itself, as a :meth:`fuse` of one's own may, runs through here:
        ``return self.enter(self._fuse, x, guide)``. Hooks then see what the method takes and returns.
        """
        return self(*args, _method=method)

    def check_published(self, state: Mapping[str, Tensor]) -> None:
        """Raise a ValueError where weights of the published code, under its names, are of other arguments."""

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        state = {key.removeprefix(prefix): state_dict[key] for key in state_dict if key.startswith(prefix)}
        theirs = dict(state)
        if rename_keys(state, dict(self.published_names)):
            self.check_published(theirs)
            self._check_fit(state)
            for key in theirs:
                del state_dict[prefix + key]
            state_dict.update((prefix + key, value) for key, value in state.items())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_fit(self, state: Mapping[str, Tensor]) -> None:
        """Published weights fit or are refused: a load that is not strict would leave the rest as it was."""
        theirs = {key: tuple(value.shape) for key, value in state.items()}
        ours = {key: tuple(value.shape) for key, value in self.state_dict().items()}
        for key in sorted({*theirs, *ours}):
            there, here = theirs.get(key, 'missing'), ours.get(key, 'missing')
            if there != here:
                raise ValueError(
                    f'published weights do not fit {type(self).__name__}({self.extra_repr()}): '
                    f'{key} is {there} there and {here} here'
                )

    def init_weights(self) -> None:
        """Set the published initialisation; hosts call it after their own."""

    def extra_repr(self) -> str:
        return f'in_channels={self.in_channels}, scale_factor={self.scale_factor}'


class GuidedUpsampler(Upsampler):
    """Base class of upsamplers that read a finer map, the guide.

    Args:
        in_channels: as in :class:`Upsampler`.
        scale_factor: as in :class:`Upsampler`.
        guide_channels: channels of the guide; None takes ``in_channels``.

    Raises:
        TypeError, ValueError: an argument is not a positive int.
    """

    needs_guide = True

    def __init__(self, in_channels: int, scale_factor: int = 2, *, guide_channels: int | None = None) -> None:
        super().__init__(in_channels, scale_factor)
        channels = in_channels if guide_channels is None else guide_channels
        self.guide_channels = require_positive_int('guide_channels', channels)

    def match_guide(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Check the guide and give it the output's size, by the rule of :func:`fit`.

        Shape:
            ``x`` (N, C, H, W), ``guide`` (N, guide_channels, h, w); returns (N, guide_channels, s*H, s*W).

        Raises:
            ValueError: the guide is missing, has other channels or images than it should, or its size
                is not that of an upsampled ``x`` give or take less than ``scale_factor`` pixels.
        """
        name, s = type(self).__name__, self.scale_factor
        if guide is None:
            raise ValueError(f'{name} needs a guide, a finer map: call it as upsampler(x, guide)')
        require_channels('x', x, self.in_channels)
        require_channels('guide', guide, self.guide_channels)
        (images, _, rows, columns), got = ints(x.shape), ints(guide.shape)
        wanted = (images, self.guide_channels, s * rows, s * columns)
        if got[0] != images or not (_fits(wanted[2], got[2], s) and _fits(wanted[3], got[3], s)):
            raise ValueError(
                f'the guide of {name} must have about {s} times the size of x, '
                f'(N, C, h, w) = {wanted}, got {got}'
            )
        height, width = s * x.shape[-2], s * x.shape[-1]
        return fit(guide, (height, width), s)


def fit(up: Tensor, size: Sequence[int], scale_factor: int = 2) -> Tensor:
    """Give an upsampled map the size of the finer map that it joins.

    Along each axis a strided stage makes n pixels of s*n - (s-1) to s*n + (s-1) finer ones. Where the finer
    map is smaller than s*n (stages that round up, as in ResNet), rows and columns are cropped at the bottom
    and right, which equals nearest interpolation to that size bit for bit. Where it is larger (stages that
    round down), the last row and column are repeated; nearest interpolation would stretch the map instead.

    Args:
        up: the map, already upsampled.
        size: wanted (height, width) in pixels.
        scale_factor: the ratio s by which ``up`` was upsampled.

    Shape:
        ``up`` (N, C, s*H, s*W); returns (N, C, height, width).

    Raises:
        ValueError: the sizes differ by ``scale_factor`` or more.
    """
    height, width = size
    # Plain ints, so that no decision on them is in a trace, which is run at other sizes.
    wanted, rows, columns = ints(size), *ints(up.shape[-2:])
    if not (_fits(rows, wanted[0], scale_factor) and _fits(columns, wanted[1], scale_factor)):
        raise ValueError(
            f'a map upsampled by {scale_factor} to {(rows, columns)} does not fit size '
            f'{wanted}: they must differ by less than {scale_factor} pixels'
        )
    if is_exporting():
        missing_rows = missing_columns = scale_factor  # more than any size lacks: one graph serves all sizes
    else:
        missing_rows, missing_columns = max(wanted[0] - rows, 0), max(wanted[1] - columns, 0)
    if missing_rows or missing_columns:
        up = F.pad(up, (0, missing_columns, 0, missing_rows), mode='replicate')
    return up[..., :height, :width]


def top_down(laterals: Sequence[Tensor], upsamplers: Sequence[Upsampler]) -> list[Tensor]:
    """Merge the levels of a pyramid, each into the next finer one, from the coarsest down.

    Args:
        laterals: maps (N, C, H_i, W_i) from fine to coarse.
        upsamplers: ``upsamplers[i]`` takes level i + 1 to level i. Where two levels have one size (dilated
            stages), their sum is taken and the upsampler is left out.

    Returns:
        The merged maps, in the order of ``laterals``.

    Raises:
        ValueError: two neighbouring levels have another ratio than their upsampler's; the level is named.
    """
    merged = list(laterals)
    for level in range(len(merged) - 1, 0, -1):
        coarse, fine, upsampler = merged[level], merged[level - 1], upsamplers[level - 1]
        s = upsampler.scale_factor
        coarse_size, fine_size = ints(coarse.shape[-2:]), ints(fine.shape[-2:])
        if all(_fits(s * c, f, s) for c, f in zip(coarse_size, fine_size, strict=True)):
            merged[level - 1] = upsampler.fuse(coarse, fine)
        elif coarse_size == fine_size:
            merged[level - 1] = fine + coarse
        else:
            raise ValueError(
                f'level {level} of size {coarse_size} cannot be upsampled by {s} to level '
                f'{level - 1} of size {fine_size}'
            )
    return merged


def _fits(upsampled: int, wanted: int, scale_factor: int) -> bool:
    return abs(upsampled - wanted) < scale_factor
