# SPDX-License-Identifier: Apache-2.0
"""Models on frozen features: what learns, what the neck sees, and features that are read from disk."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import carafe_plugin.probes  # noqa: F401
from carafe_plugin.probes import FeatureCache

VIT = dict(img_size=24, patch_size=4, embed_dims=64, num_layers=2, num_heads=1)


def build(upsample_cfg='carafe', seed=0, kind='ProbeSegmentor', backbone=(), **kwargs):
    torch.manual_seed(seed)
    model = dict(
        type=kind,
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True, size=(24, 24)
        ),
        backbone=dict(type='FrozenViT', **VIT | dict(backbone)),
        neck=dict(
            type='UpsampleStack', in_channels=64, upsample_cfg=dict(type=upsample_cfg), scale_factors=(2, 2)
        ),
        decode_head=dict(type='ProbeHead', in_channels=64, num_classes=3),
        test_cfg=dict(mode='whole'),
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        built = MODELS.build(ConfigDict(model | kwargs))
    built.init_weights()
    return built


def batch(count=2, **metas):
    """Data as a loader gives it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 24, 24), dtype=torch.uint8, generator=generator)
    labels = torch.randint(3, (count, 1, 24, 24), generator=generator)
    found = []
    for index in range(count):
        meta = dict(img_path=f'{index}.jpg', img_shape=(24, 24), ori_shape=(24, 24), **metas)
        found.append(SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels[index])))
    return dict(inputs=list(images), data_samples=found)


def losses(model, data=None):
    data = model.data_preprocessor(data or batch(), True)
    return model(**data, mode='loss')


@pytest.mark.parametrize('name', ['carafe', 'sapa', 'jbu'])
def test_neck_and_head_learn_the_backbone_does_not(name):
    model = build(name)
    model.train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    seen = []
    for _ in range(6):
        loss = losses(model)['decode.loss_ce']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < seen[0]
    assert not model.backbone.training and model.neck.training
    torch.testing.assert_close(model.backbone.state_dict(), before, rtol=0, atol=0)
    learning = {key.split('.')[0] for key, p in model.named_parameters() if p.requires_grad}
    assert learning == {'neck', 'decode_head'}
    result = model.test_step(batch())[0]
    assert result.pred_sem_seg.data.shape == (1, 24, 24)


def test_the_neck_sees_the_image_of_the_backbone():
    """RGB, normalised: the guide of a step to the image's size is the image."""
    model, seen = build('jbu'), []
    model.neck.upsamplers[1].register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    data = batch()
    losses(model, data)
    expected = torch.stack([(image.flip(0).float() - 120) / 60 for image in data['inputs']])
    torch.testing.assert_close(seen[0], expected)


def test_a_frozen_neck():
    model = build('jbu', frozen_neck=True)
    model.train()
    assert not model.neck.training and not any(p.requires_grad for p in model.neck.parameters())
    losses(model)['decode.loss_ce'].backward()
    assert model.decode_head.conv_seg.weight.grad.any()


def test_what_cannot_be_a_probe():
    with pytest.raises(ValueError, match='backbone of a ProbeSegmentor must be frozen'):
        build(backbone=dict(frozen_exclude=['all']))
    with pytest.raises(ValueError, match='has one head, got an auxiliary_head'):
        build(auxiliary_head=dict(type='ProbeHead', in_channels=64, num_classes=3))


@pytest.mark.parametrize('bins', [False, True])
def test_depth(bins):
    head = dict(type='ProbeDepthBinsHead' if bins else 'ProbeDepthHead', in_channels=64)
    model = build(kind='ProbeDepthEstimator', decode_head=head, backbone=dict(output_cls_token=bins))
    data = batch()
    for sample in data['data_samples']:
        sample.gt_depth_map = PixelData(data=torch.rand(1, 24, 24))
    (loss,) = losses(model, data).values()
    loss.backward()
    assert loss.isfinite() and model.decode_head.conv_seg.weight.grad.any()
    assert model.neck.upsamplers[0].content_encoder.weight.grad.any()
    assert model.test_step(data)[0].pred_depth_map.data.shape == (1, 24, 24)


class Counting:
    """How many images a backbone has seen."""

    def __init__(self, model):
        self.images = 0
        model.backbone.register_forward_pre_hook(self._count)

    def _count(self, module, args):
        self.images += len(args[0])


@pytest.mark.parametrize('token', [False, True])
def test_cached_features_are_the_backbones(tmp_path, token):
    plain, cached = (
        build(backbone=dict(output_cls_token=token)),
        build(backbone=dict(output_cls_token=token), cache=str(tmp_path)),
    )
    counting = Counting(cached)
    torch.testing.assert_close(losses(cached), losses(plain))
    for data in (batch(), batch(3), batch(3)):
        torch.testing.assert_close(losses(cached, data), losses(plain, data), rtol=0, atol=0)
    assert counting.images == 3
    torch.testing.assert_close(
        cached.test_step(batch())[0].seg_logits.data, plain.test_step(batch())[0].seg_logits.data
    )
    assert counting.images == 3
    assert len(list(tmp_path.iterdir())) == 4  # three images and the record: nothing half written


def test_a_cache_serves_one_backbone(tmp_path):
    losses(build(cache=str(tmp_path)))
    losses(build(cache=str(tmp_path)))
    with pytest.raises(ValueError, match='holds features of another backbone, FrozenViT of weights'):
        losses(build(seed=1, cache=str(tmp_path)))
    with pytest.raises(ValueError, match=r"this is FrozenViT .*'offset', .*: choose another folder"):
        losses(build(backbone=dict(position_rule='offset'), cache=str(tmp_path)))
    (tmp_path / 'backbone.txt').unlink()
    with pytest.raises(ValueError, match=r'has features but no backbone\.txt: remove it'):
        losses(build(cache=str(tmp_path)))


def test_a_cache_wants_one_picture_of_each_image(tmp_path):
    model = build(cache=str(tmp_path))
    losses(model)
    other = batch()
    other['inputs'] = [image.flip(2) for image in other['inputs']]
    with pytest.raises(ValueError, match=r'another picture of 0\.jpg: the pipeline crops at random'):
        losses(model, other)
    losses(model, batch(flip=False))
    with pytest.raises(ValueError, match=r'0\.jpg was flipped: set prob=0 in RandomFlip'):
        losses(model, batch(flip=True))
    images = torch.rand(1, 3, 24, 24)
    with pytest.raises(ValueError, match='by img_path, which this image comes without'):
        FeatureCache(str(tmp_path), model.backbone)(images, [{}])
