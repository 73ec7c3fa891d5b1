# SPDX-License-Identifier: Apache-2.0
"""Generators, discriminators and the turns in which they are trained."""

import copy
from contextlib import contextmanager

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS

from carafe_plugin.inpainting import (
    GlobalLocalDiscriminator,
    GlobalLocalGenerator,
    PartialConvUNet,
    PatchDiscriminator,
)
from carafe_plugin.inpainting.losses import gan_loss, total_variation
from carafe_plugin.upsamplers import UPSAMPLERS, Upsampler

GENERATORS = dict(
    GlobalLocalGenerator=dict(type='GlobalLocalGenerator', base_channels=32),
    PartialConvUNet=dict(type='PartialConvUNet', base_channels=32, num_stages=3),
)
OFTEN = ('carafe', 'deconv')  # the rest when there is time
STOCK = None
NAMES = [
    STOCK,
    *(name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in UPSAMPLERS),
]
GAN = dict(discriminator=dict(type='PatchDiscriminator', base_channels=8, num_layers=3), gan='hinge')
OPTIMIZERS = dict(
    constructor='GeneratorDiscriminatorConstructor',
    generator=dict(optimizer=dict(type='SGD', lr=0.1)),
    discriminator=dict(optimizer=dict(type='SGD', lr=0.1)),
)


def batch(size=(32, 32), count=2, hole=None):
    g = torch.Generator().manual_seed(0)
    if hole is None:
        hole = torch.zeros(1, *size, dtype=torch.uint8)
        hole[:, size[0] // 4 : size[0] // 2 + 1, size[1] // 4 : size[1] // 2 + 1] = 1
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=g)
    return dict(inputs=list(images), data_samples=dict(holes=[hole] * count))


def build(generator='GlobalLocalGenerator', upsampler=STOCK, *, gan=True, **options):
    torch.manual_seed(0)
    cfg = dict(GENERATORS[generator], upsample_cfg=upsampler and dict(type=upsampler))
    weights = dict(hole=1.0, valid=0.5, total_variation=0.1)
    if gan:
        weights['adversarial'] = 0.1
        options = {**GAN, **options}
    return MODELS.build(dict(type='Inpainter', generator=cfg, weights=weights, **options)).train()


class Autocast(OptimWrapper):
    """Stands in for AmpOptimWrapper, which needs a GPU."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def needs_guide(upsampler):
    return upsampler is not STOCK and UPSAMPLERS.get(upsampler).needs_guide


@pytest.mark.parametrize('generator', GENERATORS)
@pytest.mark.parametrize('upsampler', NAMES)
def test_one_step_gives_every_parameter_a_finite_gradient(generator, upsampler):
    if generator == 'GlobalLocalGenerator' and needs_guide(upsampler):
        with pytest.raises(
            ValueError, match=rf"'{upsampler}' needs a guide.* use PartialConvUNet, or one of .*carafe"
        ):
            build(generator, upsampler)
        return
    model = build(generator, upsampler)
    gradients = {}
    for name, p in model.named_parameters():
        p.register_hook(lambda grad, name=name: gradients.setdefault(name, grad))
    logs = model.train_step(batch(), build_optim_wrapper(model, Config(OPTIMIZERS)))
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(grad.isfinite().all() for grad in gradients.values())
    assert {'loss', 'loss_hole', 'loss_adversarial', 'discriminator_real'} <= logs.keys()


@pytest.mark.parametrize('size', [(1, 1), (33, 47), (64, 40)])
@pytest.mark.parametrize('generator', GENERATORS)
@pytest.mark.parametrize('upsampler', [STOCK, 'carafe'])
def test_any_size_is_inpainted(generator, upsampler, size):
    model = build(generator, upsampler).eval()
    for value in (0, 1):  # nothing is a hole, everything is
        data = batch(size, hole=torch.full((1, *size), value, dtype=torch.uint8))
        for image, sample in zip(data['inputs'], model.test_step(data), strict=True):
            assert sample['result'].shape == (3, *size)
            assert torch.equal(sample['original'], image)
            if not value:
                assert torch.equal(sample['result'], image)
            elif generator == 'PartialConvUNet':
                assert (sample['result'] == 128).all()


@pytest.mark.parametrize('generator', GENERATORS)
@pytest.mark.parametrize('upsampler', [STOCK, 'carafe'])
def test_one_type_gives_both_networks_mixed_precision(generator, upsampler):
    steps = {}
    for kind in (OptimWrapper, Autocast):
        model = build(generator, upsampler)
        wrappers = build_optim_wrapper(model, Config(dict(OPTIMIZERS, type=kind)))
        assert all(type(wrappers[name]) is kind for name in ('generator', 'discriminator'))
        steps[kind] = model.train_step(batch(), wrappers)
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    full, mixed = steps.values()
    assert full.keys() == mixed.keys()
    for name, value in full.items():
        assert mixed[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02)
        assert name != 'discriminator_real' or mixed[name] != value


@pytest.mark.parametrize('value', [0, 1])
@pytest.mark.parametrize('generator', GENERATORS)
def test_batches_without_a_hole_or_without_an_image_train(generator, value):
    model = build(generator, 'carafe')
    data = batch(hole=torch.full((1, 32, 32), value, dtype=torch.uint8))
    logs = model.train_step(data, build_optim_wrapper(model, Config(OPTIMIZERS)))
    assert all(loss.isfinite() for loss in logs.values())
    assert (logs['loss_hole'] > 0) == value
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('size', [(1, 1), (32, 31)])
def test_a_hole_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match=rf'image of \(3, 32, 32\) and hole of \(1, {size[0]}, {size[1]}\)'):
        build().test_step(batch(hole=torch.ones(1, *size, dtype=torch.uint8)))


@pytest.mark.parametrize('generator', GENERATORS)
def test_result_is_the_image_outside_the_hole_and_does_not_look_into_it(generator):
    model = build(generator, 'carafe').eval()
    data = batch()
    first = model.test_step(data)
    hole = data['data_samples']['holes'][0].bool().expand(3, -1, -1)
    for image, sample in zip(data['inputs'], first, strict=True):
        assert torch.equal(sample['result'][~hole], image[~hole])
    changed = dict(data, inputs=[torch.where(hole, 255 - image, image) for image in data['inputs']])
    for one, other in zip(first, model.test_step(changed), strict=True):
        assert torch.equal(one['result'], other['result'])


def test_channels_and_parameters_are_those_of_the_papers():
    """6.07 M (Iizuka et al.) and 25.8 M (Liu et al.): sums over their tables of layers."""
    counts = [sum(p.numel() for p in cls().parameters()) for cls in (GlobalLocalGenerator, PartialConvUNet)]
    assert counts == [6_069_155, 25_779_860]
    stock, carafe = (GlobalLocalGenerator(64, cfg and dict(type=cfg)) for cfg in (None, 'carafe'))
    kept = {name: p.shape for name, p in carafe.state_dict().items() if not name.startswith('upsamplers.')}
    different = {name for name, shape in kept.items() if stock.state_dict()[name].shape != shape}
    assert different == {'between.conv.weight', 'after.0.conv.weight'}


def layers(network, kind=torch.nn.Conv2d):
    """Output channels, kernel, stride and dilation of its convolutions."""
    convs = [m for m in network.modules() if isinstance(m, kind)]
    return [(m.out_channels, m.kernel_size[0], m.stride[0], m.dilation[0]) for m in convs]


def test_layers_are_those_of_the_papers():
    """Output channels as multiples of the first layer's, which is narrow here."""
    c = 4
    network, plain = GlobalLocalGenerator(c), [(4 * c, 3, 1, 1)] * 2
    assert layers(network) == [
        *[(c, 5, 1, 1), (2 * c, 3, 2, 1), (2 * c, 3, 1, 1), (4 * c, 3, 2, 1)],
        *[*plain, *((4 * c, 3, 1, dilation) for dilation in (2, 4, 8, 16)), *plain],
        *[(2 * c, 3, 1, 1), (c // 2, 3, 1, 1), (3, 3, 1, 1)],
    ]
    assert layers(network, torch.nn.ConvTranspose2d) == [(2 * c, 4, 2, 1), (c, 4, 2, 1)]

    network = PartialConvUNet(c)
    widths, sides = [c * i for i in (1, 2, 4, 8, 8, 8, 8)], (7, 5, 5, 3, 3, 3, 3)
    assert layers(network.encoder) == [(w, k, 2, 1) for w, k in zip(widths, sides, strict=True)]
    assert layers(network.decoder) == [(w, 3, 1, 1) for w in (*widths[-2::-1], 3)]
    assert all(type(block.act) is torch.nn.ReLU for block in network.encoder)
    assert [block.act.negative_slope for block in network.decoder[:-1]] == [0.2] * 6

    assert layers(PatchDiscriminator(c)) == [(c * i, 5, 2, 1) for i in (1, 2, 4, 4, 4, 4)]
    judge = GlobalLocalDiscriminator(base_channels=c)
    wanted = [(c * i, 5, 2, 1) for i in (1, 2, 4, 8, 8, 8)]
    assert (layers(judge.of_image), layers(judge.of_window)) == (wanted, wanted[:5])


def test_output_of_the_first_generator_is_clamped():
    network = GlobalLocalGenerator(4)
    torch.nn.init.normal_(network.after[1].weight, std=9.0)
    out = network(torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16))
    assert (out.min(), out.max()) == (-1, 1)


class Noting(Upsampler):
    """Reads a guide, and notes it."""

    needs_guide = True

    def __init__(self, in_channels, scale_factor=2, *, guide_channels=None):
        super().__init__(in_channels, scale_factor)
        self.guides = []

    def forward(self, x, guide=None):
        self.guides.append(guide)
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_guides_are_zero_in_the_holes_of_their_skip_connections():
    network, skips = PartialConvUNet(4, 3, dict(type=Noting)), []
    for block in network.encoder:
        if isinstance(block.norm, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(block.norm.bias)  # so that a hole is not zero by itself
        block.register_forward_hook(lambda module, args, out: skips.append(out))
    hole = torch.zeros(2, 1, 64, 64)
    hole[..., :50, :50] = 1
    network(torch.rand(2, 3, 64, 64), hole)
    guides = [up.upsampler.guides[0] for up in network.upsamplers]
    for guide, (skip, mask) in zip(guides[:2], skips[1::-1], strict=True):
        assert not mask.all()
        assert torch.equal(guide, skip * mask)


@pytest.mark.parametrize('generator', GENERATORS)
def test_upsamplers_keep_their_initialisation(generator):
    model = build(generator, 'carafe')
    for p in model.parameters():
        torch.nn.init.constant_(p, 7.0)
    model.init_weights()
    encoders = [p for name, p in model.named_parameters() if name.endswith('content_encoder.weight')]
    assert encoders and all(p.std().item() == pytest.approx(0.001, rel=0.05) for p in encoders)


def test_generator_is_judged_without_training_the_judge():
    model = build()
    images, holes = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    images.requires_grad_()
    model._adversarial_loss(model.discriminator, images, holes).backward()
    assert images.grad.any()
    assert all(p.grad is None and p.requires_grad for p in model.discriminator.parameters())


def test_two_discriminators_and_cross_entropy_train():
    judge = dict(type='GlobalLocalDiscriminator', image_size=32, local_size=16, base_channels=4)
    model = build(discriminator=judge, gan='vanilla')
    before = {name: p.clone() for name, p in model.named_parameters()}
    logs = model.train_step(batch(), build_optim_wrapper(model, Config(OPTIMIZERS)))
    # An offset before a norm has no gradient but rounding.
    assert all(
        not torch.equal(p, before[name]) for name, p in model.named_parameters() if name.endswith('weight')
    )
    assert logs['discriminator_real'] > 0 and logs['loss_adversarial'] > 0


@pytest.mark.parametrize('gan', ['hinge', 'vanilla'])
def test_an_iteration_is_what_the_class_says(gan):
    """The discriminator's update, then the generator's, on a copy and by hand."""
    model = build()
    model.gan = gan
    copied = copy.deepcopy(model)
    logs = model.train_step(batch(), build_optim_wrapper(model, Config(OPTIMIZERS)))

    data = copied.data_preprocessor(batch(), True)
    image, hole = data['inputs'], data['data_samples']['holes']
    result = copied.generator(image * (1 - hole), hole)
    composed = result * hole + image * (1 - hole)

    def step(network, loss):
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for p, gradient in zip(network.parameters(), gradients, strict=True):
                p -= 0.1 * gradient

    judge = copied.discriminator
    real, fake = (
        gan_loss(judge(x, hole), real, gan) for x, real in ((image, True), (composed.detach(), False))
    )
    step(judge, (real + fake) / 2)
    difference = (result - image).abs()
    losses = dict(
        loss_hole=1.0 * (difference * hole).sum() / (3 * hole.sum()),
        loss_valid=0.5 * (difference * (1 - hole)).sum() / (3 * (1 - hole).sum()),
        loss_tv=0.1 * total_variation(composed, hole),
        loss_adversarial=0.1 * gan_loss(judge(composed, hole), True, gan, of_generator=True),
    )
    step(copied.generator, sum(losses.values()))

    losses |= dict(loss=sum(losses.values()), discriminator_real=real, discriminator_fake=fake)
    torch.testing.assert_close(dict(logs), {name: loss.detach() for name, loss in losses.items()})
    torch.testing.assert_close(model.state_dict(), copied.state_dict())


@pytest.mark.parametrize(
    ('iteration', 'moves'), [(0, {'generator'}), (2, {'discriminator'}), (3, {'generator', 'discriminator'})]
)
def test_phases_train_one_after_the_other(iteration, moves):
    model = build(phases=(2, 1))
    before = {name: p.clone() for name, p in model.named_parameters()}
    MessageHub.get_current_instance().update_info('iter', iteration)
    try:
        logs = model.train_step(batch(), build_optim_wrapper(model, Config(OPTIMIZERS)))
    finally:
        MessageHub.get_current_instance().pop_info('iter')
    changed = {name.split('.')[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == moves
    assert ('loss_adversarial' in logs) == (iteration == 3)


@pytest.mark.parametrize('after', ['construction', 'train', 'validation'])
def test_frozen_norms_of_the_encoder_do_not_move(after):
    model = build('PartialConvUNet', gan=False)
    model.generator = PartialConvUNet(8, 3, freeze_encoder_norm=True)
    if after == 'validation':
        model.eval()
    if after != 'construction':
        model.train()
    before = {name: value.clone() for name, value in model.generator.state_dict().items()}
    model.train_step(batch(), build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1))))
    moved = {
        name for name, value in model.generator.state_dict().items() if not torch.equal(value, before[name])
    }
    assert not any(name.startswith('encoder') and '.norm.' in name for name in moved)
    assert any(name.startswith('decoder') and 'norm.running_mean' in name for name in moved)
    assert any(name.startswith('encoder') and '.conv.' in name for name in moved)


def test_patches_without_a_hole_do_not_count():
    judge = PatchDiscriminator(4, 2)
    hole = torch.zeros(2, 1, 32, 32)
    hole[1, 0, 9, 17] = 1
    scores = judge(torch.rand(2, 3, 32, 32), hole)
    assert scores.shape == (8,)  # one of 64 patches, 2 * 4 channels
    assert judge(torch.rand(2, 3, 32, 32), hole * 0).numel() == 0


@pytest.mark.parametrize(
    ('box', 'corner'),
    [((0, 4, 0, 4), (0, 0)), ((60, 64, 30, 34), (32, 16)), ((20, 40, 10, 50), (14, 14)), (None, (16, 16))],
)
def test_window_is_centred_on_the_hole_within_the_image(box, corner):
    judge = GlobalLocalDiscriminator(64, 32, 4)
    hole = torch.zeros(1, 1, 64, 64)
    if box:
        hole[..., box[0] : box[1], box[2] : box[3]] = 1
    assert tuple(judge._corner(hole[0])) == corner
    image = torch.rand(2, 3, 64, 64)
    image.requires_grad_()
    assert judge(image, hole.expand(2, -1, -1, -1)).shape == (2,)


def test_wrong_size_for_the_global_discriminator_is_named():
    with pytest.raises(ValueError, match=r'image_size=64, got images of \(32, 32\)'):
        GlobalLocalDiscriminator(64, 32, 4)(torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(weights=dict(holes=1)), 'weights must be among hole, .*got holes'),
        (dict(weights=dict(hole=1, adversarial=1)), 'go together'),
        (
            dict(weights=dict(hole=1, adversarial=1), gan='wgan', **{'discriminator': GAN['discriminator']}),
            'hinge, vanilla',
        ),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='Inpainter', generator=GENERATORS['PartialConvUNet'], **options))
