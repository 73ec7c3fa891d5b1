# SPDX-License-Identifier: Apache-2.0
"""FeatUp's training without labels: its parts by their definitions, and as a whole on a photograph."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper

from carafe_plugin.probes import LabelFreeUpsampler
from carafe_plugin.probes.label_free import AttentionDownsampler, Jitter, sampled_crf

VIT = dict(type='mmseg.FrozenViT', img_size=32, patch_size=4, embed_dims=64, num_layers=2, num_heads=1)


def test_a_view_is_that_part_of_the_image():
    image = torch.arange(48.0).reshape(1, 1, 6, 8)
    padded = torch.tensor(np.pad(image[0, 0].numpy(), 2, mode='reflect'))
    assert torch.equal(Jitter(2, 1.0, 1, 3, False)(image)[0, 0], padded[1:7, 3:11])
    assert torch.equal(Jitter(2, 1.0, 1, 3, True)(image)[0, 0], padded[1:7, 3:11].flip(1))
    zoomed = F.interpolate(padded[None, None], scale_factor=1.5, mode='bilinear')[0, 0]
    assert torch.equal(Jitter(2, 1.5, 9, 4, False)(image)[0, 0], zoomed[9:15, 4:12])


def test_views_that_are_drawn():
    torch.manual_seed(0)
    drawn = [Jitter.draw(6, 8, 2, 2.0) for _ in range(300)]
    assert all(jitter(torch.zeros(1, 1, 6, 8)).shape == (1, 1, 6, 8) for jitter in drawn)
    zooms = [jitter.zoom for jitter in drawn if jitter.zoom > 1]
    assert 110 < len(zooms) < 190 and min(zooms) < 1.1 and 1.9 < max(zooms) <= 2
    assert 110 < sum(jitter.flip for jitter in drawn) < 190
    still = [jitter for jitter in drawn if jitter.zoom == 1]
    assert {jitter.top for jitter in still} == {jitter.left for jitter in still} == set(range(5))


def test_downsampler():
    torch.manual_seed(0)
    down = AttentionDownsampler(3, 2).double().eval()
    features = torch.randn(1, 3, 4, 6, dtype=torch.float64)
    out = down(features, (2, 3))
    taps = np.exp(-(np.arange(-2, 3) ** 2) / 2)
    taps /= taps.sum()
    padded = np.pad(features[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode='reflect')
    blurred = np.zeros((3, 4, 6))
    for i in range(5):
        for j in range(5):
            blurred += taps[i] * taps[j] * padded[:, i : i + 4, j : j + 6]
    weight, bias = (p.detach().numpy() for p in down.attention.parameters())
    scale, shift = down.scale.detach().numpy(), down.shift.detach().numpy()
    for y in range(2):
        for x in range(3):
            patch = blurred[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(3, 4)
            logits = (weight.reshape(3) @ patch + bias) * scale + shift
            share = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(out[0, :, y, x].detach(), patch @ share, rtol=1e-6)
    with pytest.raises(ValueError, match='4 x 6 pixels do not fall into 4 x 3 patches of 2 x 2'):
        down(features, (4, 3))


def test_crf_of_two_colours(monkeypatch):
    """Two pixels, drawn once each: half of the pairs are of a pixel with itself."""
    image, features = torch.tensor([[[[0.0, 0.5]]]]), torch.tensor([[[[1.0, 4.0]], [[2.0, 2.0]]]])
    draws = iter([torch.tensor([0, 0]), torch.tensor([0, 1])])
    monkeypatch.setattr(torch, 'randint', lambda *args, **kwargs: next(draws))
    expected = 9 * (10 * math.exp(-0.25 / 0.2 - 0.25 / 0.3) + 3 * math.exp(-0.25 / 0.01)) / 2
    assert sampled_crf(image, features, 2).item() == pytest.approx(expected)


def build(upsample='carafe', **kwargs):
    torch.manual_seed(0)
    neck = dict(
        type='mmseg.UpsampleStack', in_channels=64, upsample_cfg=dict(type=upsample), scale_factors=(2, 2)
    )
    model = LabelFreeUpsampler(VIT, neck, max_pad=4, **kwargs)
    model.init_weights()
    return model.train()


def photograph(side=32):
    from skimage import data

    image = torch.tensor(data.astronaut()[:256, 128:384].copy()).permute(2, 0, 1)[None].float()
    image = F.interpolate(image, (side, side), mode='bilinear', antialias=True)
    return dict(inputs=(image - 120) / 60)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['carafe', 'jbu'])
def test_the_loss_falls_on_a_photograph(name):
    """A random transformer gives features too; the random views make single losses noisy."""
    model = build(name, jitters=2)
    wrapper = OptimWrapper(torch.optim.NAdam([p for p in model.parameters() if p.requires_grad], lr=1e-3))
    before = {key: p.clone() for key, p in model.backbone.named_parameters()}
    start = {key: p.clone() for key, p in model.named_parameters() if p.requires_grad}
    losses = [model.train_step(photograph(), wrapper)['loss'].item() for _ in range(60)]
    assert np.mean(losses[-15:]) < np.mean(losses[:15]) - 0.05
    assert all(torch.equal(p, before[key]) for key, p in model.backbone.named_parameters())
    assert all(not torch.equal(p, start[key]) for key, p in model.named_parameters() if p.requires_grad)
    assert model.steps == 60


def test_first_steps_are_clipped(monkeypatch):
    model = build(jitters=1)
    norms = []

    class Watched(OptimWrapper):
        def step(self, **kwargs):
            grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            norms.append(torch.cat(grads).norm().item())

    wrapper = Watched(torch.optim.NAdam([p for p in model.parameters() if p.requires_grad]))
    for _ in range(12):
        model.train_step(photograph(), wrapper)
    assert max(norms[:10]) < 1.01e-4 and min(norms[10:]) > 1e-3


def test_all_views_at_once_are_the_sum():
    """What a distributed wrapper calls; dropout and views are drawn in the same order."""
    model, data = build(jitters=3), photograph()
    torch.manual_seed(1)
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    torch.manual_seed(1)
    features = model.backbone(data['inputs'])[-1]
    parts = [model._losses(data['inputs'], features, first=index == 0) for index in range(3)]
    expected = sum(sum(part.values()) for part in parts)
    torch.testing.assert_close(total, expected)
    assert losses.keys() == {'loss_rec', 'loss_crf'}
    assert 'loss_crf' not in build(crf_weight=0, projection=None)(**data, mode='loss')


def test_a_neck_that_ends_elsewhere():
    model = build()
    model.neck = torch.nn.Identity()
    model.neck.forward = lambda x, image: x
    with pytest.raises(ValueError, match=r'size of the image, \(32, 32\), got \(8, 8\): set neck.to_image'):
        model(**photograph(), mode='loss')
