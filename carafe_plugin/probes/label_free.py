# SPDX-License-Identifier: Apache-2.0
"""Upsamplers trained without labels, by FeatUp's multi-view consistency: https://arxiv.org/abs/2403.10516."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from torch import Tensor, nn


@dataclass(frozen=True)
class Jitter:
    """A view of an image: padded by reflection, zoomed, cropped to its old size and perhaps flipped.

    ``top`` and ``left`` are in pixels of the zoomed picture.
    """

    pad: int
    zoom: float
    top: int
    left: int
    flip: bool

    @classmethod
    def draw(cls, height: int, width: int, max_pad: int, max_zoom: float) -> 'Jitter':
        """Zoom between 1 and ``max_zoom`` every second time, flip every second time, any place."""
        flip, zoomed, zoom = torch.rand(3).tolist()
        zoom = 1 + zoom * (max_zoom - 1) if zoomed > 0.5 else 1.0
        top, left = (
            int(torch.randint(int((side + 2 * max_pad) * zoom) - side + 1, ())) for side in (height, width)
        )
        return cls(max_pad, zoom, top, left, flip > 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """The view of images or maps (N, C, H, W), of the same shape."""
        height, width = x.shape[-2:]
        view = F.pad(x, (self.pad,) * 4, mode='reflect')
        if self.zoom > 1:
            view = F.interpolate(view, scale_factor=self.zoom, mode='bilinear')
        view = view[..., self.top : self.top + height, self.left : self.left + width]
        return view.flip(3) if self.flip else view


class AttentionDownsampler(nn.Module):
    """Each low-resolution feature as a weighted mean of a patch of blurred high-resolution ones.

    The weights are softmax(w * <a, feature> + b), with one w and b for each place in the patch; in training a
    fifth of the values and of the patches' products are dropped.

    Args:
        channels: channels C of the features.
        kernel_size: side of a patch in pixels, that of the backbone's.

    Shape:
        Features (N, C, H, W) and the size (h, w); returns (N, C, h, w).

    Raises:
        ValueError: in the call, patches of that size do not come in h rows and w columns.
    """

    blur: Tensor

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dropout = nn.Dropout(0.2)
        self.attention = nn.Conv2d(channels, 1, 1)
        self.scale = nn.Parameter(1 + 0.01 * torch.randn(kernel_size**2))
        self.shift = nn.Parameter(0.01 * torch.randn(kernel_size**2))
        taps = torch.exp(-torch.arange(-2.0, 3.0).square() / 2)
        self.register_buffer('blur', taps / taps.sum(), persistent=False)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        k, (height, width) = self.kernel_size, features.shape[-2:]
        strides = tuple((side - k) // max(n - 1, 1) for side, n in zip((height, width), size, strict=True))
        fits = all(
            (side - k) // max(stride, 1) + 1 == n
            for side, stride, n in zip((height, width), strides, size, strict=True)
        )
        if not fits:
            raise ValueError(
                f'features of {height} x {width} pixels do not fall into {size[0]} x {size[1]} patches of '
                f'{k} x {k}'
            )
        blurred = self._blur(features)
        logits = self.attention(self.dropout(blurred))

        def patches(x: Tensor) -> Tensor:  # [N, C, k*k, h*w]
            return F.unfold(x, k, stride=strides).unflatten(1, (x.shape[1], k * k))

        products = patches(logits)
        if self.training:
            products = products * (torch.rand_like(products[:, :, :1]) > 0.2)
        weights = (products * self.scale[:, None] + self.shift[:, None]).softmax(2)
        return (patches(blurred) * weights).sum(2).unflatten(2, size)

    def _blur(self, x: Tensor) -> Tensor:
        """A Gaussian of one pixel, 5 x 5, reflected at the border."""
        channels = x.shape[1]
        for axis in (2, 3):
            border, shape = [0, 0, 0, 0], [channels, 1, 1, 1]
            border[2 * (3 - axis)] = border[2 * (3 - axis) + 1] = 2
            shape[axis] = 5
            kernel = self.blur.reshape([1, 1, *shape[2:]]).expand(shape)
            x = F.conv2d(F.pad(x, border, mode='reflect'), kernel, groups=channels)
        return x


def sampled_crf(images: Tensor, features: Tensor, samples: int = 1000) -> Tensor:
    """Features of alike and of near pixels shall be alike: a mean over pairs of randomly drawn pixels.

    The squared distance of their features times 10 exp(-d/0.2 - c/0.3) + 3 exp(-d/0.01), d the squared
    distance of the places, the image being of side 1, and c that of the colours.

    Shape:
        ``images`` (N, 3, H, W), ``features`` (N, C, H, W); returns a number.
    """
    height, width = images.shape[-2:]
    rows, columns = (torch.randint(side, (samples,), device=images.device) for side in (height, width))
    places = torch.stack((rows / height, columns / width))[None]
    near = _squared_distances(places)
    alike = _squared_distances(images[:, :, rows, columns])
    weights = 10 * torch.exp(-near / 0.2 - alike / 0.3) + 3 * torch.exp(-near / 0.01)
    return (_squared_distances(features[:, :, rows, columns]) * weights).mean()


def _squared_distances(x: Tensor) -> Tensor:  # [N, C, P] -> [N, P, P]
    squares = x.square().sum(1)
    return (squares[:, :, None] + squares[:, None] - 2 * x.transpose(1, 2) @ x).clamp_min(0)


@MODELS.register_module()
class LabelFreeUpsampler(BaseModel):
    """Train an upsampler so that its features of an image agree with the backbone's in many views of it.

    An iteration draws ``jitters`` views. In each, the upsampled features go through the view, a learned
    downsampler and a random projection, and are compared with the backbone's features of the viewed image:
    squared error over 2 s^2 plus log s, with s learned from these features. The gradients of all views are
    summed before the step; those of the first ten steps have a norm of 1e-4 at most. As released by FeatUp,
    but that :func:`sampled_crf`, taken in the first view, sees the view of the image instead of the image.

    The checkpoint's ``neck`` fits :class:`ProbeSegmentor` (``load_from``).

    Args:
        backbone: config of a :class:`FrozenViT`.
        neck: config of an :class:`UpsampleStack` that ends at the image's size.
        jitters: number of views.
        max_pad: pixels by which views are padded.
        max_zoom: largest zoom of a view.
        projection: number of random directions in which features are compared; None compares them whole.
        crf_weight: weight of :func:`sampled_crf`; 0 leaves it out.
        data_preprocessor: as in mmengine.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        jitters: int = 5,
        max_pad: int = 20,
        max_zoom: float = 2.0,
        projection: int | None = 30,
        crf_weight: float = 1e-3,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.backbone, self.neck = MODELS.build(backbone), MODELS.build(neck)
        self.jitters, self.max_pad, self.max_zoom = jitters, max_pad, max_zoom
        self.projection, self.crf_weight = projection, crf_weight
        channels = self.neck.in_channels
        self.downsampler = AttentionDownsampler(channels, self.backbone.patch_size)
        self.uncertainty = nn.Conv2d(channels, 1, 1)
        with torch.no_grad():
            for p in self.uncertainty.parameters():
                p.mul_(0.1)
        self.register_buffer('steps', torch.zeros((), dtype=torch.long))

    def forward(
        self, inputs: Tensor, data_samples: object = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor]:
        """The upsampled features; with mode ``'loss'`` the losses of all views at once."""
        features = self.backbone(inputs)[-1]
        if mode != 'loss':
            return self.neck(features, inputs)
        views = [self._losses(inputs, features, first=index == 0) for index in range(self.jitters)]
        return {name: torch.stack([view[name] for view in views if name in view]).sum() for name in views[0]}

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One iteration, view by view, so that one view's graph is in memory at a time."""
        images = self.data_preprocessor(data, True)['inputs']
        features = self.backbone(images)[-1]
        logs: dict[str, Tensor] = {}
        for index in range(self.jitters):
            with optim_wrapper.optim_context(self):
                loss, view = self.parse_losses(self._losses(images, features, first=index == 0))
            optim_wrapper.backward(loss)
            for name, value in view.items():
                logs[name] = logs.get(name, 0) + value
        if self.steps < 10:
            learned = [p for p in self.parameters() if p.grad is not None]
            nn.utils.clip_grad_norm_(learned, 1e-4)
        self.steps += 1
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return logs

    def _losses(self, images: Tensor, features: Tensor, first: bool) -> dict[str, Tensor]:
        upsampled = self.neck(features, images)
        if upsampled.shape[-2:] != images.shape[-2:]:
            raise ValueError(
                f'the neck must end at the size of the image, {tuple(images.shape[-2:])}, got '
                f'{tuple(upsampled.shape[-2:])}: set neck.to_image=True'
            )
        height, width = images.shape[-2:]
        jitter = Jitter.draw(height, width, self.max_pad, self.max_zoom)
        view = jitter(images)
        seen = self.backbone(view)[-1]
        viewed = jitter(upsampled)
        project = self._projection(features)
        error = (project(self.downsampler(viewed, tuple(seen.shape[-2:]))) - project(seen)).square()
        scale = (self.uncertainty(seen) + 0.1).exp().clamp_min(1e-4)
        losses = dict(loss_rec=(error / (2 * scale.square()) + scale.log()).mean() / self.jitters)
        if first and self.crf_weight:
            losses['loss_crf'] = self.crf_weight * sampled_crf(view, project(viewed))
        return losses

    def _projection(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        if self.projection is None:
            return lambda x: x
        images, channels = features.shape[:2]
        directions = F.normalize(features.new_empty(images, channels, self.projection).normal_(), dim=1)
        return lambda x: torch.einsum('nchw,ncd->ndhw', x, directions)
