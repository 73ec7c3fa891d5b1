# SPDX-License-Identifier: Apache-2.0
"""What upsamplers do inside of a model: their inputs, their kernels, and where an output pixel comes from."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from carafe_plugin.ops import carafe
from carafe_plugin.upsamplers import Upsampler, fit

#: The methods that give kernels; those of the second are not all that the upsampler does.
KERNELS = ('kernels', 'lowpass_kernels')


@dataclass
class Step:
    """One call of an upsampler.

    Args:
        name: of the module in its model.
        upsampler: the module.
        x: map that it was given, (N, C, H, W).
        guide: finer map that it was given, if any; the upsampled map takes its size.
        fused: map that :meth:`Upsampler.fuse` made of both; None where the host did not ask for it.
    """

    name: str
    upsampler: Upsampler
    x: Tensor
    guide: Tensor | None = None
    fused: Tensor | None = field(default=None, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upsampled map."""
        s = self.upsampler.scale_factor
        height, width = self.x.shape[-2:]
        return tuple(self.guide.shape[-2:]) if self.guide is not None else (s * height, s * width)

    @torch.no_grad()
    def upsampled(self) -> Tensor:
        """The map after the upsampler, before any sum: (N, C, h, w)."""
        return fit(self.upsampler(self.x, self.guide), self.size, self.upsampler.scale_factor)

    @property
    def has_kernels(self) -> bool:
        return any(hasattr(self.upsampler, name) for name in KERNELS)

    @torch.no_grad()
    def kernels(self) -> Tensor:
        """Kernels of all pixels, the mean over the groups of channels: (N, k*k, s*H, s*W).

        Raises:
            ValueError: the upsampler has no kernels.
        """
        if not self.has_kernels:
            raise ValueError(f'{self.name} ({type(self.upsampler).__name__}) has no reassembly kernels')
        predict = next(getattr(self.upsampler, name) for name in KERNELS if hasattr(self.upsampler, name))
        groups = getattr(self.upsampler, 'up_group', 1)
        return predict(self.x, self.guide).unflatten(1, (groups, -1)).mean(1)


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Step]]:
    """List the calls of a model's upsamplers while the context lasts, in their order."""
    steps: list[Step] = []
    handles, patched = [], []

    def watch(name: str, upsampler: Upsampler) -> None:
        inside = False

        def before_forward(_, args: tuple, kwargs: dict) -> None:
            if not inside:
                steps.append(Step(name, upsampler, *args, **kwargs))

        def fuse(x: Tensor, guide: Tensor) -> Tensor:
            nonlocal inside
            step = Step(name, upsampler, x, guide)
            steps.append(step)
            inside = True
            try:
                step.fused = type(upsampler).fuse(upsampler, x, guide)
            finally:
                inside = False
            return step.fused

        handles.append(upsampler.register_forward_pre_hook(before_forward, with_kwargs=True))
        upsampler.fuse = fuse  # some fuse without a call of forward
        patched.append(upsampler)

    for name, module in model.named_modules():
        if isinstance(module, Upsampler):
            watch(name, module)
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()
        for upsampler in patched:
            del upsampler.fuse


def chain(steps: Sequence[Step], last: Step) -> list[Step]:
    """The steps that lead to ``last`` with nothing but sums between them, from fine to coarse.

    In a top-down path of sums the fused map of one step is the input of the next; a convolution between them
    ends the chain.
    """
    found = [last]
    while previous := [step for step in steps if step.fused is not None and step.fused is found[-1].x]:
        found.append(previous[0])
    return found


def pull_back(weights: Tensor, kernels: Tensor, scale_factor: int) -> Tensor:
    """Spread weights of output pixels over the input pixels that were reassembled into them.

    The adjoint of reassembly: an input pixel gets the sum, over output pixels, of the weight times the entry
    of that pixel's kernel which met it. What fell on the zero padding is lost.

    Shape:
        ``weights`` (1, 1, h, w) with the size of a map after :func:`fit`; ``kernels`` (1, k*k, s*H, s*W);
        returns (1, 1, H, W).
    """
    s, side = scale_factor, math.isqrt(kernels.shape[1])
    height, width = kernels.shape[-2] // s, kernels.shape[-1] // s
    # Linear in x: its gradient at any x.
    with torch.enable_grad():
        x = kernels.new_zeros(1, 1, height, width, requires_grad=True)
        up = fit(carafe(x, kernels, side, 1, s), weights.shape[-2:], s)
        return torch.autograd.grad(up, x, weights.to(up.dtype))[0]


def accumulated_field(steps: Sequence[Step], point: tuple[int, int]) -> list[Tensor]:
    """Where an output pixel comes from, level by level: the weights multiplied through all kernels.

    Args:
        steps: as :func:`chain` gives them; the first image of each batch counts.
        point: row and column in the map after the first step.

    Returns:
        Weights (H, W) on that map (1 at the point), on the input of the first step, of the second, ...
        With normalised kernels each sums to 1, but for what fell on the zero padding.

    Raises:
        ValueError: a step has no kernels, or the point lies outside the map.
    """
    height, width = steps[0].size
    if not (0 <= point[0] < height and 0 <= point[1] < width):
        raise ValueError(f'point must lie in a map of {height} rows and {width} columns, got {point}')
    weights = torch.zeros(1, 1, height, width, device=steps[0].x.device)
    weights[0, 0, point[0], point[1]] = 1
    fields = [weights]
    for step in steps:
        fields.append(pull_back(fields[-1], step.kernels()[:1].float(), step.upsampler.scale_factor))
    return [values[0, 0] for values in fields]


@torch.no_grad()
def principal_colours(*maps: Tensor) -> list[Tensor]:
    """Maps (C, H, W) of the same C as pictures (H, W, 3) in [0, 1]: the first three principal components.

    Components and range come from the first map, so that a colour means the same in all of them.
    """
    channels = maps[0].shape[0]
    pixels = maps[0].reshape(channels, -1).T.float()
    mean = pixels.mean(0)
    _, _, axes = torch.linalg.svd(pixels - mean, full_matrices=False)
    axes = torch.cat((axes[:3], axes.new_zeros(max(0, 3 - len(axes)), channels)))
    projected = (pixels - mean) @ axes.T
    low, high = projected.quantile(0.01, 0), projected.quantile(0.99, 0)
    return [
        (((m.reshape(channels, -1).T.float() - mean) @ axes.T - low) / (high - low).clamp(min=1e-8))
        .clamp(0, 1)
        .reshape(*m.shape[-2:], 3)
        for m in maps
    ]
