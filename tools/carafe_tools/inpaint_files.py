# SPDX-License-Identifier: Apache-2.0
"""Check the masks that an inpainting config reads its holes from."""

import os

from mmengine.registry import TRANSFORMS

from carafe_plugin.runtime.config_parts import steps, type_name, unwrap
from carafe_plugin.runtime.data_checks.images import spread
from carafe_plugin.runtime.errors import UserError, notice


def check_masks(cfg: dict, where: str) -> None:
    """Check each ``HoleFromFiles`` of a dataset config, through wrappers: its masks mark holes.

    At most :data:`carafe_plugin.runtime.data_checks.images.SAMPLE` masks are read, evenly spread.

    Args:
        cfg: dataset config.
        where: its name in the config, for messages.

    Raises:
        UserError: no mask marks a part of its image, or ``HoleFromFiles`` cannot be built.
    """
    for name, dataset in unwrap(cfg, where):
        for step in steps(dataset):
            if type_name(step) == 'HoleFromFiles':
                _check(step, name)


def _check(step: dict, name: str) -> None:
    # Here, since a detector's config does not load that package.
    from carafe_plugin.inpainting.images import UnreadableImageError
    from carafe_plugin.inpainting.masks import read_mask

    try:
        holes = TRANSFORMS.build(step)
    except (TypeError, ValueError) as error:
        raise UserError(f'{name}: {error}') from error
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
