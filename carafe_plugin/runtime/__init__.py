# SPDX-License-Identifier: Apache-2.0
"""What all hosts share around mmengine.

Once imported, ``torch.load`` reads mmengine's checkpoints and its FLOP analysis counts our operators.
"""

from .checkpoint import enable_safe_loading
from .checkpoint_hook import AtomicCheckpointHook
from .data_checks import CheckDataHook
from .finite import FiniteLossHook
from .flops import count_operators
from .progress import ProgressBarHook
from .sampler import NumberedSampler

enable_safe_loading()
count_operators()

__all__ = [
    'AtomicCheckpointHook',
    'CheckDataHook',
    'FiniteLossHook',
    'NumberedSampler',
    'ProgressBarHook',
    'enable_safe_loading',
]
