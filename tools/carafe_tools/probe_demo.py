# SPDX-License-Identifier: Apache-2.0
"""Linear probes on upsampled features, trained in one process, and pictures of the features."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import Tensor, nn

import carafe_plugin.probes

SIDE = 224  # of the pictures, in pixels: 16 patches of 14
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='ResizeCenterCrop', size=SIDE),
    dict(type='PackSegInputs'),
]


def read_pairs(dataset: dict, indices: Sequence[int]) -> list[dict]:
    """Images and label maps of a data set, as a loader gives them.

    Args:
        dataset: config of a data set of MMSegmentation, without pipeline.
        indices: which of its images.
    """
    with DefaultScope.overwrite_default_scope('mmseg'):
        data = DATASETS.build(dict(dataset, pipeline=PIPELINE))
    return [data[index] for index in indices]


def build_probe(backbone: dict, upsample_cfg: dict, classes: int, cache: Path, seed: int) -> nn.Module:
    """A probe on features upsampled by 4 in two steps; ``cache`` is the folder of the features."""
    torch.manual_seed(seed)
    model = dict(
        type='ProbeSegmentor',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            size=(SIDE, SIDE),
        ),
        backbone=backbone,
        neck=dict(type='UpsampleStack', in_channels=384, upsample_cfg=upsample_cfg, scale_factors=(2, 2)),
        decode_head=dict(type='ProbeHead', in_channels=384, num_classes=classes, at_features=True),
        cache=str(cache),
        test_cfg=dict(mode='whole'),
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(ConfigDict(model))


def train_probe(model: nn.Module, pairs: Sequence[dict], iterations: int, seed: int) -> list[float]:
    """Train upsampler and head on batches of four, drawn at random; return the losses."""
    generator = torch.Generator().manual_seed(seed)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=2e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    model.train()
    losses = []
    for _ in range(iterations):
        drawn = torch.randperm(len(pairs), generator=generator)[:4].tolist()
        batch = model.data_preprocessor(pseudo_collate([pairs[index] for index in drawn]), True)
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def evaluate_probe(model: nn.Module, pairs: Sequence[dict], classes: int) -> dict[str, float]:
    """Mean IoU over the classes that occur, and the share of pixels that are right, both in percent."""
    model.eval()
    counts = torch.zeros(classes, classes, dtype=torch.long)
    for pair in pairs:
        truth = pair['data_samples'].gt_sem_seg.data.flatten()
        predicted = model.test_step(pseudo_collate([pair]))[0].pred_sem_seg.data.flatten()
        kept = truth < classes
        counts += torch.bincount(truth[kept] * classes + predicted[kept], minlength=classes**2).reshape(
            classes, classes
        )
    right, truths, predictions = counts.diag(), counts.sum(1), counts.sum(0)
    occurring = truths > 0
    iou = right[occurring] / (truths + predictions - right)[occurring]
    return dict(mIoU=100 * iou.mean().item(), accuracy=100 * (right.sum() / truths.sum()).item())


def summary(found: Sequence[dict[str, float]]) -> dict[str, str]:
    """Mean and sample standard deviation of each figure over the seeds."""
    return {
        key: f'{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}'
        for key, values in ((key, [figures[key] for figures in found]) for key in found[0])
    }


@torch.no_grad()
def principal_components(maps: Sequence[Tensor]) -> list[np.ndarray]:
    """Maps (C, H, W) as RGB pictures: the first three principal components of the first map, for all.

    Each component is stretched between the first map's 1st and 99th percentile.
    """
    first = maps[0].flatten(1)
    mean = first.mean(1, keepdim=True)
    directions = torch.linalg.svd(first - mean, full_matrices=False)[0][:, :3]
    directions = directions * torch.where(directions.sum(0) < 0, -1, 1)  # signs are free
    low, high = torch.quantile(directions.T @ (first - mean), torch.tensor([0.01, 0.99]), dim=1)
    pictures = []
    for features in maps:
        shown = directions.T @ (features.flatten(1) - mean)
        shown = ((shown - low[:, None]) / (high - low)[:, None]).clamp(0, 1).unflatten(1, features.shape[1:])
        pictures.append((shown * 255).round().byte().permute(1, 2, 0).numpy())
    return pictures


@torch.no_grad()
def upsampled_features(model: nn.Module, image: np.ndarray) -> tuple[Tensor, Tensor]:
    """The backbone's map of an RGB image (H, W, 3) and the upsampler's of it, both (C, h, w)."""
    model.eval()
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float()
    preprocessor = model.data_preprocessor
    inputs = ((pixels.flip(0)[None] - preprocessor.mean) / preprocessor.std).float()
    features = model.backbone(inputs)[-1]
    return features[0], model.neck(features, inputs)[0]


def compare(
    task: dict,
    backbone: dict,
    upsamplers: dict[str, dict],
    seeds: Sequence[int],
    iterations: int,
    folder: Path,
) -> tuple[list[dict], dict[str, nn.Module]]:
    """Train and evaluate a probe for each upsampler and seed.

    Args:
        task: ``name``, number of ``classes``, and pairs to ``train`` and ``val`` on.
        backbone: config of a ``FrozenViT`` of 384 channels and patches of 14.
        upsamplers: ``upsample_cfg`` by name.
        seeds: of initialisation and draws.
        iterations: of each training.
        folder: for the features.

    Returns:
        A row for each upsampler, and its model of the first seed.
    """
    rows, models = [], {}
    for name, cfg in upsamplers.items():
        found, start = [], time.monotonic()
        for seed in seeds:
            model = build_probe(backbone, cfg, task['classes'], folder / task['name'], seed)
            train_probe(model, task['train'], iterations, seed)
            found.append(evaluate_probe(model, task['val'], task['classes']))
            models.setdefault(name, model)
        learned = sum(p.numel() for p in models[name].neck.parameters())
        seconds = time.monotonic() - start
        row = dict(upsampler=name, parameters=f'{learned:,}', **summary(found), seconds=f'{seconds:.0f}')
        print(f'{task["name"]}, {name}: mIoU {row["mIoU"]}, {seconds:.0f} s', flush=True)
        rows.append(row)
    return rows, models


def enlarge(picture: np.ndarray, side: int) -> np.ndarray:
    """Repeat pixels up to a square of ``side``."""
    rows = np.arange(side) * len(picture) // side
    return picture[rows[:, None], rows]


def photograph(side: int) -> np.ndarray:
    """The square in the middle of a photograph that scikit-image brings, RGB."""
    from skimage import data

    results = carafe_plugin.probes.ResizeCenterCrop(side)(dict(img=data.astronaut()))
    return results['img']
