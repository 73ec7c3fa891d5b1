# SPDX-License-Identifier: Apache-2.0
"""What a trained model costs: parameters, multiply-adds, time of an image. Needs mmengine."""

import contextlib
import functools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from .terminal import silence_pycocotools

WARM_UP = 2


@dataclass
class Cost:
    """Cost of one model.

    Args:
        parameters: their number, frozen ones included, discriminators not.
        macs: multiply-adds of one forward pass over the first image, as mmengine counts them; a FLOP count by
            the convention of the CARAFE paper is twice this.
        latency: median time of an image in milliseconds, preprocessing and post-processing included.
    """

    parameters: int
    macs: int
    latency: float


def load_model(cfg: Config, checkpoint: Path) -> nn.Module:
    """Build a config's model with its trained weights, ready for inference on the default device."""
    model_cfg = dict(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = MODELS.build(model_cfg)
    load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True, logger='silent')
    return model.to(get_device()).eval()


def validation_images(cfg: Config, number: int) -> list[dict]:
    """The first images of the validation set as batches of one, through the config's own pipeline."""
    silence_pycocotools()
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
        return [pseudo_collate([dataset[i]]) for i in range(min(number, len(dataset)))]


@torch.no_grad()
def multiply_adds(model: nn.Module, image: dict) -> tuple[int, int]:
    """Parameters and multiply-adds of a model's forward pass over one image.

    A detector of two stages gets as many proposals as its config allows: what its weights leave would differ
    from one upsampler to the next.
    """
    data = model.data_preprocessor(image)
    forward = model.forward
    model.forward = functools.partial(forward, data_samples=data['data_samples'])
    try:
        with _every_proposal(model):
            counter = FlopAnalyzer(model, data['inputs'])
            # Operators without a multiply-add, and modules that have a part in the loss alone.
            counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            macs = counter.total()
    finally:
        model.forward = forward
    network = getattr(model, 'generator', model)  # a discriminator has no part in the forward pass
    return sum(p.numel() for p in network.parameters()), macs


@contextlib.contextmanager
def _every_proposal(model: nn.Module) -> Iterator[None]:
    head = getattr(model, 'rpn_head', None)
    if head is None:
        yield
        return
    own = head.test_cfg
    head.test_cfg = ConfigDict(own, min_bbox_size=-1, nms=dict(type='nms', iou_threshold=1.0))
    try:
        yield
    finally:
        head.test_cfg = own


@torch.no_grad()
def latencies(models: Mapping[str, nn.Module], images: Sequence[dict]) -> dict[str, float]:
    """Median time of an image in milliseconds; the models take turns, since a machine's speed drifts."""
    times = {name: [] for name in models}
    for image in [*images[:1] * WARM_UP, *images]:
        for name, model in models.items():
            _synchronize()
            start = time.perf_counter()
            model.test_step(image)
            _synchronize()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(found[WARM_UP:]) for name, found in times.items()}


def costs(models: Mapping[str, nn.Module], images: Sequence[dict]) -> dict[str, Cost]:
    """Cost of several models that do the same."""
    milliseconds = latencies(models, images)
    return {
        name: Cost(*multiply_adds(model, images[0]), milliseconds[name]) for name, model in models.items()
    }


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
