# SPDX-License-Identifier: Apache-2.0
"""Several processes without a GPU, which mmengine's own launch does not know."""

import os
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

from .config_parts import type_name
from .errors import UserError, notice


def start_cpu_processes(cfg: Config) -> None:
    """Join the processes of a launcher by gloo, where the machine has no accelerator; else do nothing.

    Must run before the Runner is made, which then finds the process group. Changes ``cfg``: the model wrapper
    gets no device ids, and synchronised batch norms, which gloo cannot serve, become plain ones.

    Raises:
        UserError: the launcher is ``pytorch`` and torchrun did not start this process.
    """
    if cfg.launcher == 'none':
        return
    if cfg.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError('--launcher pytorch needs torchrun: use tools/dist_train.sh or tools/dist_test.sh')
    if get_device() != 'cpu':
        return
    env_cfg = cfg.get('env_cfg') or {}
    # As the Runner does, and before init_dist settles on another start method.
    set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
    # mmengine reads the environment of each launcher, and picks a CUDA device on the way.
    with mock.patch.object(torch.cuda, 'set_device'):
        init_dist(cfg.launcher, **dict(env_cfg.get('dist_cfg', {}), backend='gloo'))
    cfg.model_wrapper_cfg = cpu_model_wrapper(cfg)
    plain = _use_plain_batch_norm(cfg.model)
    if cfg.pop('sync_bn', None) or plain:
        notice('synchronised batch norm needs a GPU: each process normalises its own images')


def leave_processes() -> None:
    """Leave the process group, where there is one, once the work is done.

    A thread of gloo's that is still there when the interpreter ends aborts the process now and then
    (pytorch#190489), and NCCL warns.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def cpu_model_wrapper(cfg: Config) -> dict:
    """Model wrapper of ``cfg`` for the CPU; mmengine's defaults where the config names none."""
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    return dict(dict(type='MMDistributedDataParallel'), **wrapper) | dict(device_ids=None)


def _use_plain_batch_norm(cfg: object) -> int:
    """Turn SyncBN into BN in a nested config, in place; return how many there were."""
    if isinstance(cfg, (list, tuple)):
        return sum(map(_use_plain_batch_norm, cfg))
    if not isinstance(cfg, dict):
        return 0
    found = type_name(cfg) in ('SyncBN', 'MMSyncBN')
    if found:
        cfg['type'] = 'BN'
    return found + sum(map(_use_plain_batch_norm, cfg.values()))
