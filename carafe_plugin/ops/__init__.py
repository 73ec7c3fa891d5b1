# SPDX-License-Identifier: Apache-2.0
"""The operators: stateless functions on tensors. Needs torch alone."""

from .carafe import carafe, carafe_downsample, carafe_downsample_softmax, carafe_softmax
from .correlate import correlate

__all__ = ['carafe', 'carafe_downsample', 'carafe_downsample_softmax', 'carafe_softmax', 'correlate']
