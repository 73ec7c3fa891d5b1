# SPDX-License-Identifier: Apache-2.0
"""Linear probes on frozen, upsampled features: importing this package registers it with MMSegmentation."""

from carafe_plugin.runtime.registration import register_upsamplers

from .backbone import FrozenViT
from .cache import FeatureCache
from .data import ADE20K151, DepthDataset, ResizeCenterCrop
from .heads import ProbeDepthBinsHead, ProbeDepthHead, ProbeHead
from .label_free import LabelFreeUpsampler
from .metrics import AlignedDepthMetric
from .models import ProbeDepthEstimator, ProbeSegmentor
from .stack import UpsampleStack

register_upsamplers()

__all__ = [
    'ADE20K151',
    'AlignedDepthMetric',
    'DepthDataset',
    'FeatureCache',
    'FrozenViT',
    'LabelFreeUpsampler',
    'ProbeDepthBinsHead',
    'ProbeDepthEstimator',
    'ProbeDepthHead',
    'ProbeHead',
    'ProbeSegmentor',
    'ResizeCenterCrop',
    'UpsampleStack',
]
