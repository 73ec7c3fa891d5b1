# SPDX-License-Identifier: Apache-2.0
"""Check the files that a run opens late: images to inpaint, weights of a loss, pretrained backbones."""

import os

from mmengine.registry import TRANSFORMS
from torch import nn

from carafe_plugin.runtime.checkpoint import read_checkpoint
from carafe_plugin.runtime.config_parts import dataset_class, type_name, unwrap
from carafe_plugin.runtime.errors import UserError


def check_inpainting_dataset(cfg: dict, where: str) -> None:
    """Check a dataset config, through wrappers: its images are there, and masks of their names if asked for.

    Only InpaintingDataset and its kin are looked at. In a folder the first image is enough: listing millions
    takes a while, and the run does it anyway.

    Args:
        cfg: dataset config.
        where: its name in the config, for messages.

    Raises:
        UserError: names what is missing.
    """
    for name, dataset in unwrap(cfg, where):
        if not any(base.__name__ == 'InpaintingDataset' for base in dataset_class(dataset).__mro__):
            continue
        # Here, since a detector's config does not load that package.
        from carafe_plugin.inpainting.images import list_images, require_images

        root, ann_file = dataset.get('data_root'), dataset.get('ann_file')
        require_images(root, ann_file)
        for step in dataset.get('pipeline') or ():
            if type_name(step) == 'HoleFromFiles' and step.get('by_name'):
                holes = TRANSFORMS.build(step)
                paths = [os.path.join(root, os.fsdecode(image)) for image in list_images(root, ann_file)]
                without = [path for path in paths if holes.own.find(path) is None]
                if without:
                    raise UserError(
                        f'mask folder {holes.root} holds none named as {without[0]}, {len(without)} of '
                        f'{len(paths)} images have no mask ({name})'
                    )


def check_weight_files(model: nn.Module) -> None:
    """Check the files that a model reads its first weights from, and those of a perceptual loss.

    Raises:
        UserError: one does not exist or cannot be read; names the module that asks for it.
    """
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        for init in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
            path = init.get('checkpoint') if isinstance(init, dict) else None
            if type_name(init or {}) == 'Pretrained' and isinstance(path, str) and '://' not in path:
                try:
                    read_checkpoint(path)
                except UserError as error:
                    where = '.'.join(filter(None, ('model', name, 'init_cfg')))
                    raise UserError(f'{where}: {error}') from error
    if getattr(model, 'perceptual', None) is not None:
        model.perceptual.init_weights()
