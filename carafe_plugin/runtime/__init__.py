# SPDX-License-Identifier: Apache-2.0
"""What all hosts share around mmengine.

Once imported, ``torch.load`` reads mmengine's checkpoints, its FLOP analysis counts our operators, and mmcv's
operator serves on CUDA where none of ours does.
"""

from .checkpoint import enable_safe_loading
from .checkpoint_hook import AtomicCheckpointHook
from .data_checks import CheckDataHook
from .finite import FiniteLossHook
from .flops import count_operators
from .mmcv_operator import serve_on_cuda
from .progress import ProgressBarHook
from .sampler import NumberedSampler

enable_safe_loading()
count_operators()
serve_on_cuda()

__all__ = [
    'AtomicCheckpointHook',
    'CheckDataHook',
    'FiniteLossHook',
    'NumberedSampler',
    'ProgressBarHook',
    'enable_safe_loading',
]
