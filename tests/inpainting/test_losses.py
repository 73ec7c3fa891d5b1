# SPDX-License-Identifier: Apache-2.0
"""Losses against arithmetic; VGG16's weights are read when training starts, or missed with a remedy."""

import sys

import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.inpainting import VGGLoss
from carafe_plugin.inpainting.losses import _gram, gan_loss, masked_l1, total_variation
from carafe_plugin.runtime.errors import UserError


def test_l1_is_a_mean_over_the_masked_pixels():
    image, result = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, 0, 0] = 1
    assert masked_l1(result, image, mask) == pytest.approx(0.5)
    assert masked_l1(result, image, mask * 0) == 0


def test_total_variation_counts_neighbours_that_touch_the_hole():
    image = torch.zeros(1, 3, 5, 6)
    image[..., 2, 3] = 1
    hole = torch.zeros(1, 1, 5, 6)
    hole[..., 2, 3] = 1
    assert total_variation(image, hole) == pytest.approx(1)  # each of its four neighbours differs by 1
    hole[..., 2, 4] = 1
    assert total_variation(image, hole) == pytest.approx(4 / 7)
    assert total_variation(image, hole * 0) == 0
    assert total_variation(image[..., :1, :1], hole[..., :1, :1]) == 0


def test_gan_losses():
    scores = torch.tensor([-2.0, 0.3, 1.5])
    for real in (True, False):
        label = torch.full((3,), float(real))
        expected = F.binary_cross_entropy_with_logits(scores, label)
        torch.testing.assert_close(gan_loss(scores, real, 'vanilla'), expected)
    assert gan_loss(scores, True, 'hinge') == pytest.approx((3 + 0.7 + 0) / 3)
    assert gan_loss(scores, False, 'hinge') == pytest.approx((0 + 1.3 + 2.5) / 3)
    assert gan_loss(scores, True, 'hinge', of_generator=True) == pytest.approx(0.2 / 3)
    assert gan_loss(scores[:0], True, 'hinge') == 0


def write_weights(file):
    """VGG16's layers up to the third pooling, at torchvision's indices, with random weights."""
    torch.manual_seed(0)
    widths = [
        (0, 3, 64),
        (2, 64, 64),
        (5, 64, 128),
        (7, 128, 128),
        (10, 128, 256),
        (12, 256, 256),
        (14, 256, 256),
    ]
    state = {}
    for index, inputs, outputs in widths:
        conv = torch.nn.Conv2d(inputs, outputs, 3)
        state |= {f'features.{index}.{name}': p.detach() for name, p in conv.named_parameters()}
    torch.save(state, file)
    return state


def test_features_are_those_of_vgg16(tmp_path):
    state = write_weights(tmp_path / 'vgg16.pth')
    loss = VGGLoss(weights=str(tmp_path / 'vgg16.pth'))
    loss.init_weights()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, poolings = ((images + 1) / 2 - mean) / std, []
    for index in range(17):
        if f'features.{index}.weight' in state:
            x = F.conv2d(
                x, state[f'features.{index}.weight'], state[f'features.{index}.bias'], padding=1
            ).relu()
        elif index in (4, 9, 16):
            x = F.max_pool2d(x, 2)
            poolings.append(x)
    for mine, theirs in zip(loss.features(images), poolings, strict=True):
        torch.testing.assert_close(mine, theirs)

    result = torch.rand(2, 3, 16, 16, requires_grad=True)
    losses = loss(result, result, images)
    sum(losses.values()).backward()
    assert result.grad.isfinite().all() and result.grad.any()
    other = VGGLoss(perceptual=0.05, style=240.0, weights=loss.weights)
    other.init_weights()
    torch.testing.assert_close(other(result, result, images)['loss_style'], 2 * losses['loss_style'])
    assert all(value == 0 for value in loss(images, images, images).values())
    assert not loss.state_dict() and not list(loss.parameters())


def test_perceptual_and_style_are_sums_over_both_outputs_and_three_poolings(tmp_path):
    write_weights(tmp_path / 'vgg16.pth')
    loss = VGGLoss(weights=str(tmp_path / 'vgg16.pth'))
    loss.init_weights()
    result, composed, image = torch.rand(3, 2, 3, 16, 24) * 2 - 1
    perceptual = style = 0
    for output in (result, composed):
        for mine, wanted in zip(loss.features(output), loss.features(image), strict=True):
            perceptual += (mine - wanted).abs().mean()
            size = mine[0].numel()
            grams = [torch.einsum('nchw,ndhw->ncd', x.double(), x.double()) / size for x in (mine, wanted)]
            style += (grams[0] - grams[1]).abs().mean()
    losses = loss(result, composed, image)
    torch.testing.assert_close(losses['loss_perceptual'], 0.05 * perceptual)
    torch.testing.assert_close(losses['loss_style'].double(), 120 * style, rtol=1e-4, atol=0)


def test_style_stays_finite_in_mixed_precision():
    features = torch.full((1, 2, 128, 128), 8.0, dtype=torch.float16)
    with torch.autocast('cpu', torch.float16):
        torch.testing.assert_close(_gram(features), torch.full((1, 2, 2), 32.0))  # of sums of 2**20


@pytest.mark.parametrize('kind', ['absent', 'damaged', 'other', 'no torchvision'])
def test_missing_weights_are_an_error_with_a_remedy(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    torch.save(dict(weight=torch.zeros(1)), tmp_path / 'other.pth')
    (tmp_path / 'damaged.pth').write_bytes((tmp_path / 'other.pth').read_bytes()[:99])
    weights = 'torchvision' if kind == 'no torchvision' else str(tmp_path / f'{kind}.pth')
    loss = VGGLoss(weights=weights)  # a test needs no weights
    with pytest.raises(UserError, match=r'model\.perceptual=None|is no VGG16 of torchvision'):
        loss.init_weights()
