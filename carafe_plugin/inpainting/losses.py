# SPDX-License-Identifier: Apache-2.0
"""What inpainting is trained with. Images are (N, 3, H, W) in [-1, 1], holes (N, 1, H, W) 1 in the hole."""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from carafe_plugin.runtime.checkpoint import read_checkpoint
from carafe_plugin.runtime.errors import UserError

GAN_KINDS = ('hinge', 'vanilla')
# torchvision's VGG16: channels of each convolution, 'M' a 2x2 max-pooling. The third pooling ends it.
VGG16 = (64, 64, 'M', 128, 128, 'M', 256, 256, 256, 'M')


def masked_l1(result: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference over the pixels where ``mask`` is 1; 0 where it is 0 everywhere."""
    difference = (result - image).abs() * mask
    return difference.sum() / (mask.sum() * image.shape[1]).clamp(min=1)


def total_variation(composed: Tensor, hole: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of which at least one lies in the hole."""
    total, count = composed.new_zeros(()), composed.new_zeros(())
    for axis in (-2, -1):
        size = composed.shape[axis] - 1
        first, second = composed.narrow(axis, 0, size), composed.narrow(axis, 1, size)
        touched = torch.maximum(hole.narrow(axis, 0, size), hole.narrow(axis, 1, size))
        total = total + ((first - second).abs() * touched).sum()
        count = count + touched.sum() * composed.shape[1]
    return total / count.clamp(min=1)


def gan_loss(scores: Tensor, real: bool, kind: str, *, of_generator: bool = False) -> Tensor:
    """Loss of a discriminator whose scores should say ``real``, or of the generator that wants them to.

    Args:
        scores: any shape; an empty one gives 0.
        real: what the scores should say.
        kind: ``'hinge'`` or ``'vanilla'`` (cross entropy).
        of_generator: the generator's loss, which differs for the hinge: minus the mean score.
    """
    if kind not in GAN_KINDS:
        raise ValueError(f'gan must be one of {", ".join(GAN_KINDS)}, got {kind!r}')
    sign = 1 if real else -1
    if kind == 'vanilla':
        losses = F.softplus(-sign * scores)
    else:
        losses = -sign * scores if of_generator else F.relu(1 - sign * scores)
    return losses.sum() / max(losses.numel(), 1)


@MODELS.register_module()
class VGGLoss(nn.Module):
    """Perceptual and style loss on the three first poolings of VGG16.

    Perceptual: mean absolute difference of the features. Style: that of their Gram matrices, each divided
    by C*H*W. Both are summed over the poolings, and over the raw and the composed output. The network is
    frozen, in no checkpoint, and read when training starts, so that a test needs no weights.

    Args:
        perceptual: weight of the perceptual loss; 0 leaves it out.
        style: weight of the style loss; 0 leaves it out.
        weights: a file with torchvision's VGG16 state dict (``vgg16-397923af.pth``), or ``'torchvision'``,
            which takes it from that package's cache or downloads it.

    Raises:
        UserError: in ``init_weights``: there are no such weights; the message says what to do.

    Reference: Johnson et al., ECCV 2016; Gatys et al., CVPR 2016; weights as in Liu et al., ECCV 2018.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, perceptual: float = 0.05, style: float = 120.0, weights: str = 'torchvision') -> None:
        super().__init__()
        self.perceptual, self.style, self.weights = perceptual, style, weights
        self.indices = []
        channels = 3
        for index, width in enumerate(self._layers()):
            if isinstance(width, int):
                self.indices.append(index)
                # Buffers outside the state dict: neither saved nor trained, yet moved with the model.
                shape = (width, channels, 3, 3)
                self.register_buffer(f'weight{index}', torch.full(shape, float('nan')), persistent=False)
                self.register_buffer(f'bias{index}', torch.zeros(width), persistent=False)
                channels = width
        for name, values in (('mean', (0.485, 0.456, 0.406)), ('std', (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @staticmethod
    def _layers() -> list[int | str | None]:
        """Layers at torchvision's indices: each convolution is followed by a ReLU of its own index."""
        return [layer for width in VGG16 for layer in ((width, None) if width != 'M' else ('M',))]

    def init_weights(self) -> None:
        """Read the weights."""
        state = self._read()
        for index in self.indices:
            for name in ('weight', 'bias'):
                key, buffer = f'features.{index}.{name}', getattr(self, f'{name}{index}')
                if key not in state or state[key].shape != buffer.shape:
                    raise UserError(
                        f'{self.weights} is no VGG16 of torchvision: no {key} of {tuple(buffer.shape)}'
                    )
                buffer.copy_(state[key])

    def _read(self) -> dict[str, Tensor]:
        remedy = (
            'give its file as model.perceptual.weights=PATH (vgg16-397923af.pth of torchvision), install '
            'torchvision, or leave the loss out by model.perceptual=None'
        )
        if self.weights != 'torchvision':
            try:
                return read_checkpoint(self.weights)
            except UserError as error:
                raise UserError(f'weights of VGG16: {error}; {remedy}') from error
        try:
            from torchvision.models import VGG16_Weights  # type: ignore[import-not-found]
        except ImportError as error:
            raise UserError(f'the perceptual loss needs the weights of VGG16: {remedy}') from error
        return VGG16_Weights.IMAGENET1K_V1.get_state_dict()

    def features(self, image: Tensor) -> list[Tensor]:
        """Outputs of the three poolings."""
        x, out = ((image + 1) / 2 - self.mean) / self.std, []
        for index, width in enumerate(self._layers()):
            if width == 'M':
                x = F.max_pool2d(x, 2)
                out.append(x)
            elif width is not None:
                x = F.relu(
                    F.conv2d(x, getattr(self, f'weight{index}'), getattr(self, f'bias{index}'), padding=1)
                )
        return out

    def forward(self, result: Tensor, composed: Tensor, image: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = self.features(image)
        losses = dict(loss_perceptual=image.new_zeros(()), loss_style=image.new_zeros(()))
        for output in (result, composed):
            for mine, theirs in zip(self.features(output), wanted, strict=True):
                losses['loss_perceptual'] += self.perceptual * F.l1_loss(mine, theirs)
                losses['loss_style'] += self.style * F.l1_loss(_gram(mine), _gram(theirs))
        return losses


def _gram(features: Tensor) -> Tensor:
    # The sums over a map exceed the range of float16.
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / flat[0].numel()
