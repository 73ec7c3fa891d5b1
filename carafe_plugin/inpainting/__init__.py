# SPDX-License-Identifier: Apache-2.0
"""Image inpainting on mmengine: importing this package registers it and every upsampler with mmengine."""

from carafe_plugin.runtime.registration import register_upsamplers

from .data import InpaintingDataset
from .discriminators import GlobalLocalDiscriminator, PatchDiscriminator
from .generators import GlobalLocalGenerator, PartialConvUNet
from .losses import VGGLoss
from .metrics import InpaintingMetric
from .models import GeneratorDiscriminatorConstructor, Inpainter, InpaintingPreprocessor
from .partial_conv import PartialConv2d, PartialUpsample
from .transforms import CropResize, HoleFromFiles, PackInpainting, RandomHole, ReadImage
from .visualization import InpaintingVisualizationHook

register_upsamplers()

__all__ = [
    'CropResize',
    'GeneratorDiscriminatorConstructor',
    'GlobalLocalDiscriminator',
    'GlobalLocalGenerator',
    'HoleFromFiles',
    'Inpainter',
    'InpaintingDataset',
    'InpaintingMetric',
    'InpaintingPreprocessor',
    'InpaintingVisualizationHook',
    'PackInpainting',
    'PartialConv2d',
    'PartialConvUNet',
    'PartialUpsample',
    'PatchDiscriminator',
    'RandomHole',
    'ReadImage',
    'VGGLoss',
]
