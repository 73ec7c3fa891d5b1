# SPDX-License-Identifier: Apache-2.0
"""Check the weights that a run opens late: those of a loss, pretrained backbones."""

from importlib.util import find_spec

from torch import nn

from carafe_plugin.runtime.checkpoint import read_checkpoint
from carafe_plugin.runtime.config_parts import type_name
from carafe_plugin.runtime.errors import UserError


def check_weight_files(model: nn.Module) -> None:
    """Check the files that a model reads its first weights from, and those of a perceptual loss.

    Raises:
        UserError: one does not exist or cannot be read; names the module that asks for it.
    """
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        for init in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
            path = init.get('checkpoint') if isinstance(init, dict) else None
            if type_name(init or {}) != 'Pretrained' or not isinstance(path, str):
                continue
            where = '.'.join(filter(None, ('model', name, 'init_cfg')))
            if path.startswith('torchvision://') and find_spec('torchvision') is None:
                raise UserError(
                    f'{where}: {path} is fetched by torchvision, which is not installed; install the one '
                    f'that belongs to this torch, or start without these weights: --cfg-options {where}=None'
                )
            if '://' not in path:
                try:
                    read_checkpoint(path)
                except UserError as error:
                    raise UserError(f'{where}: {error}') from error
    if getattr(model, 'perceptual', None) is not None:
        model.perceptual.init_weights()
