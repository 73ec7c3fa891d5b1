# SPDX-License-Identifier: Apache-2.0
"""The model that the Runner trains: a generator, its losses, and a discriminator if there is one."""

from collections.abc import Sequence

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor, BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import Tensor, nn

from .losses import GAN_KINDS, gan_loss, masked_l1, total_variation

WEIGHTS = ('hole', 'valid', 'total_variation', 'adversarial')


@MODELS.register_module()
class InpaintingPreprocessor(BaseDataPreprocessor):
    """Stack a batch; bytes become [-1, 1] in images, {0, 1} in holes (1 is the hole).

    Raises:
        ValueError: an image and its hole differ in size.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        samples = data['data_samples']
        for image, hole in zip(data['inputs'], samples['holes'], strict=True):
            if hole.shape != (1, *image.shape[1:]):
                raise ValueError(
                    f'image of {tuple(image.shape)} and hole of {tuple(hole.shape)} differ in size'
                )
        images, holes = torch.stack(list(data['inputs'])), torch.stack(list(samples['holes']))
        return dict(inputs=images.float() / 127.5 - 1, data_samples=dict(samples, holes=holes.float()))


@MODELS.register_module()
class Inpainter(BaseModel):
    """Fill holes; with a discriminator, train it and the generator in turns.

    An iteration runs the generator once, then updates the discriminator, then the generator. The result is
    the generator's output in the hole and the image elsewhere. L1 is taken on the raw output and is a mean
    over the pixels it concerns, whatever their number; the discriminator and total variation see the
    result; see :class:`VGGLoss` for the perceptual losses.

    Args:
        generator: config of a generator, e.g. ``dict(type='GlobalLocalGenerator')``.
        weights: weights of the losses ``hole`` and ``valid`` (L1), ``total_variation``, ``adversarial``;
            those that are absent are 0.
        discriminator: config of a discriminator, or None.
        gan: ``'hinge'`` or ``'vanilla'``.
        phases: number of iterations at the start that train the generator alone, and after them the
            discriminator alone; then both in turns.
        perceptual: config of :class:`VGGLoss`, or None.
        data_preprocessor: as in mmengine; None is :class:`InpaintingPreprocessor`.

    Raises:
        ValueError: an unknown weight or ``gan``; an adversarial weight without a discriminator.
    """

    def __init__(
        self,
        generator: dict,
        weights: dict[str, float],
        discriminator: dict | None = None,
        gan: str = 'hinge',
        phases: Sequence[int] = (0, 0),
        perceptual: dict | None = None,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor or dict(type='InpaintingPreprocessor'))
        if unknown := weights.keys() - set(WEIGHTS):
            raise ValueError(f'weights must be among {", ".join(WEIGHTS)}, got {", ".join(sorted(unknown))}')
        if bool(weights.get('adversarial')) != (discriminator is not None):
            raise ValueError(
                'weights.adversarial and discriminator go together, got '
                f'{weights.get("adversarial", 0)} and {discriminator}'
            )
        if gan not in GAN_KINDS:
            raise ValueError(f'gan must be one of {", ".join(GAN_KINDS)}, got {gan!r}')
        self.loss_weights, self.gan, self.phases = dict(weights), gan, tuple(phases)
        self.generator = MODELS.build(generator)
        self.discriminator = MODELS.build(discriminator) if discriminator else None
        self.perceptual = MODELS.build(perceptual) if perceptual else None

    def forward(
        self, inputs: Tensor, data_samples: dict, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[dict]:
        """Run on images (N, 3, H, W) in [-1, 1].

        Args:
            inputs: images; what they hold in the hole is not looked at, but by the losses.
            data_samples: ``holes`` (N, 1, H, W), 1 in the hole and 0 elsewhere; where it is known, ``paths``
                of the images and ``skipped``, which of them metrics should leave out.
            mode: ``'tensor'`` for the raw output, ``'loss'`` for the losses without a discriminator,
                ``'predict'`` for a dict of bytes per image: ``result``, ``original`` and ``hole``.
        """
        holes = data_samples['holes']
        result = self.generator(inputs * (1 - holes), holes)
        if mode == 'tensor':
            return result
        if mode == 'loss':
            return self.losses(result, inputs, holes)
        composed = torch.where(holes > 0, result.float().clamp(-1, 1), inputs)
        composed, inputs = (((x + 1) * 127.5).round().byte() for x in (composed, inputs))
        paths = data_samples.get('paths', [''] * len(inputs))
        skipped = data_samples.get('skipped', [False] * len(inputs))
        rows = zip(composed, inputs, holes.byte(), paths, skipped, strict=True)
        keys = ('result', 'original', 'hole', 'path', 'skipped')
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def losses(self, result: Tensor, images: Tensor, holes: Tensor) -> dict[str, Tensor]:
        """Weighted losses of a raw output, but the adversarial one."""
        weights = self.loss_weights
        result, composed = result.float(), torch.where(holes > 0, result.float(), images)
        losses = {}
        if weights.get('hole'):
            losses['loss_hole'] = weights['hole'] * masked_l1(result, images, holes)
        if weights.get('valid'):
            losses['loss_valid'] = weights['valid'] * masked_l1(result, images, 1 - holes)
        if weights.get('total_variation'):
            losses['loss_tv'] = weights['total_variation'] * total_variation(composed, holes)
        if self.perceptual is not None:
            losses.update(self.perceptual(result, composed, images))
        return losses

    def train_step(self, data: dict, optim_wrapper: OptimWrapper | OptimWrapperDict) -> dict[str, Tensor]:
        """One iteration; see the class for its order."""
        if self.discriminator is None:
            return super().train_step(data, optim_wrapper)
        iteration = MessageHub.get_current_instance().get_info('iter', 0)
        train_discriminator = iteration >= self.phases[0]
        train_generator = not train_discriminator or iteration >= sum(self.phases)
        optimizers = [optim_wrapper['generator'], optim_wrapper['discriminator']]

        data = self.data_preprocessor(data, True)
        images, holes = data['inputs'], data['data_samples']['holes']
        with optimizers[0].optim_context(self.generator), torch.set_grad_enabled(train_generator):
            result = self.generator(images * (1 - holes), holes)
            composed = torch.where(holes > 0, result.float(), images)
        logs = {}
        if train_discriminator:
            with optimizers[1].optim_context(self.discriminator):
                of_real = gan_loss(self.discriminator(images, holes), True, self.gan)
                of_fake = gan_loss(self.discriminator(composed.detach(), holes), False, self.gan)
            logs = dict(discriminator_real=of_real.detach(), discriminator_fake=of_fake.detach())
            optimizers[1].update_params((of_real + of_fake) / 2)
        if train_generator:
            with optimizers[0].optim_context(self.generator):
                losses = self.losses(result, images, holes)
                if train_discriminator:
                    losses['loss_adversarial'] = self._adversarial_loss(self.discriminator, composed, holes)
            total, log_vars = self.parse_losses(losses)
            optimizers[0].update_params(total)
            logs.update(log_vars)
        return logs

    def _adversarial_loss(self, discriminator: nn.Module, composed: Tensor, holes: Tensor) -> Tensor:
        # Past the wrapper of a distributed run, which would wait for gradients of the discriminator.
        if is_model_wrapper(discriminator):
            discriminator = discriminator.get_submodule('module')
        trained = [p for p in discriminator.parameters() if p.requires_grad]
        for p in trained:
            p.requires_grad_(False)
        scores = discriminator(composed, holes)
        for p in trained:
            p.requires_grad_(True)
        return self.loss_weights['adversarial'] * gan_loss(scores, True, self.gan, of_generator=True)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GeneratorDiscriminatorConstructor:
    """Build one optimizer wrapper for the generator and one for the discriminator.

    Config: ``optim_wrapper=dict(constructor='GeneratorDiscriminatorConstructor',
    generator=dict(optimizer=...), discriminator=dict(optimizer=...))``; further keys, ``type`` for one, hold
    for both.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if paramwise_cfg is not None:
            raise ValueError('paramwise_cfg belongs into generator or discriminator of optim_wrapper')
        self.common = dict(optim_wrapper_cfg)
        missing = {'generator', 'discriminator'} - self.common.keys()
        if missing:
            raise ValueError(f'optim_wrapper must have generator and discriminator, no {", ".join(missing)}')
        self.parts = {name: self.common.pop(name) for name in ('generator', 'discriminator')}

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        if is_model_wrapper(model):
            model = model.get_submodule('module')
        return OptimWrapperDict(
            **{
                name: build_optim_wrapper(getattr(model, name), {**self.common, **part})
                for name, part in self.parts.items()
            }
        )
