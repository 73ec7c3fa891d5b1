# SPDX-License-Identifier: Apache-2.0
"""What all hosts share around mmengine's Runner; once imported, ``torch.load`` reads its checkpoints."""

from .checkpoint import enable_safe_loading
from .checkpoint_hook import AtomicCheckpointHook
from .progress import ProgressBarHook

enable_safe_loading()

__all__ = ['AtomicCheckpointHook', 'ProgressBarHook', 'enable_safe_loading']
