# SPDX-License-Identifier: Apache-2.0
"""Check the images of an inpainting config and the masks that it reads its holes from."""

import os

from mmengine.registry import TRANSFORMS

from carafe_plugin.runtime.config_parts import dataset_class, steps, type_name, unwrap
from carafe_plugin.runtime.data_checks.images import spread
from carafe_plugin.runtime.errors import UserError, notice


def check_inpainting_dataset(cfg: dict, where: str) -> None:
    """Check a dataset config, through wrappers: its images are there, and its masks mark holes.

    Images are those of InpaintingDataset and its kin, masks those of every ``HoleFromFiles``. In a folder the
    first image is enough, but where masks have the images' names: listing millions takes a while, and the
    run does it anyway. At most :data:`carafe_plugin.runtime.data_checks.images.SAMPLE` masks are read.

    Args:
        cfg: dataset config.
        where: its name in the config, for messages.

    Raises:
        UserError: names what is missing; no mask marks a part of its image; or ``HoleFromFiles`` cannot be
            built.
    """
    for name, dataset in unwrap(cfg, where):
        inpainting = any(base.__name__ == 'InpaintingDataset' for base in dataset_class(dataset).__mro__)
        holes = [step for step in steps(dataset) if type_name(step) == 'HoleFromFiles']
        if not inpainting and not holes:
            continue
        # Here, since a detector's config does not load that package.
        from carafe_plugin.inpainting.images import list_images, require_images

        root, ann_file = dataset.get('data_root'), dataset.get('ann_file')
        if inpainting:
            require_images(root, ann_file)
        for step in holes:
            try:
                transform = TRANSFORMS.build(step)
            except (TypeError, ValueError) as error:
                raise UserError(f'{name}: {error}') from error
            if inpainting and transform.own is not None:
                paths = [os.path.join(root, os.fsdecode(image)) for image in list_images(root, ann_file)]
                _check_names(transform, paths, name)
            _check_masks(transform, name)


def _check_names(holes, paths: list[str], name: str) -> None:
    without = [path for path in paths if holes.own.find(path) is None]
    if without:
        raise UserError(
            f'mask folder {holes.root} holds none named as {without[0]}, {len(without)} of {len(paths)} '
            f'images have no mask ({name})'
        )


def _check_masks(holes, name: str) -> None:
    from carafe_plugin.inpainting.images import UnreadableImageError
    from carafe_plugin.inpainting.masks import read_mask

    chosen = spread(len(holes.names))
    wrong = []
    for index in chosen:
        path = holes.root / os.fsdecode(holes.names[index])
        try:
            hole = read_mask(path, holes.hole)
        except UnreadableImageError as error:
            wrong.append(str(error))
        else:
            if hole.all() or not hole.any():
                wrong.append(
                    f'{path} marks {"every" if hole.all() else "no"} pixel, the hole is {holes.hole}'
                )
    if len(wrong) == len(chosen):
        raise UserError(f'none of {len(chosen)} masks can be used ({name}): {wrong[0]}')
    if wrong:
        notice(f'{len(wrong)} of {len(chosen)} masks cannot be used ({name}): {wrong[0]}')
