# SPDX-License-Identifier: Apache-2.0
"""The classes of a data set, and the heads that must have one output for each."""

import copy
from collections.abc import Iterable

from torch import nn

from carafe_plugin.runtime.config_parts import dataset_class, find_step, unwrap
from carafe_plugin.runtime.errors import UserError, notice


def some(names: Iterable[str], count: int = 5) -> str:
    """The first of many names, for a message."""
    names = list(names)
    return ', '.join(map(str, names[:count])) + ', ...' * (len(names) > count)


def class_names(cfg: dict, where: str) -> tuple[str, ...] | None:
    """Names of the classes as the data set of a config takes them; None where only building it would tell.

    Raises:
        UserError: they are no list, or stand under a name that the data set does not read.
    """
    cls = dataset_class(cfg)
    if not any(base.__name__ in ('BaseDetDataset', 'BaseSegDataset') for base in cls.__mro__):
        return None
    meta = cfg.get('metainfo') or {}
    if 'CLASSES' in meta and 'classes' not in meta:
        raise UserError(f"{where}.metainfo has 'CLASSES', which nothing reads; its name is 'classes'")
    classes = cls._load_metainfo(copy.deepcopy(meta)).get('classes')
    if isinstance(classes, str):
        raise UserError(
            f'{where}.metainfo.classes must be a list of names or the path of one, got {classes!r}; '
            'a tuple of one name ends with a comma'
        )
    return None if classes is None else tuple(classes)


def check_heads(model: nn.Module, cfg: dict, where: str, spoken: bool = False) -> None:
    """Compare ``num_classes`` of a model's heads with the classes of a data set.

    Heads that do not tell the classes apart are left out: RPN, class-agnostic masks, boundaries, the stuff
    of a panoptic FPN. A panoptic data set's heads may have its things alone.

    Args:
        model: a detector or segmentor.
        cfg: dataset config.
        where: its name in the config, for messages.
        spoken: what is only a notice has been said.

    Raises:
        UserError: a head has fewer classes than the data, or more, and not all heads so; where all have more
            there is a notice.
    """
    name, dataset = next(unwrap(cfg, where), (where, {}))
    classes = class_names(dataset, name)
    if not classes:
        return
    things = dataset_class(dataset).METAINFO.get('thing_classes', classes)
    counts = {}
    for path, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        # A list of heads has them as `bbox_head.0`.
        part = path.rstrip('.0123456789').split('.')[-1]
        if not isinstance(count, int) or not part.endswith('head') or part in ('rpn_head', 'semantic_head'):
            continue
        kind = type(module).__name__
        if getattr(module, 'class_agnostic', False) or kind == 'STDCHead' or 'RPN' in kind:
            continue
        counts[path] = count
    for path, count in counts.items():
        text = f'model.{path} has num_classes={count}, {name} {len(classes)} classes'
        if count < min(len(classes), len(things)):
            raise UserError(f'{text}: {some(classes)}')
        if count in (len(classes), len(things)):
            continue
        for other, different in counts.items():
            if different != count:  # forgotten in one of them
                raise UserError(f'{text}, and model.{other} num_classes={different}: {some(classes)}')
        if not spoken:
            notice(f'{text}: {count - len(classes)} are never trained, and metrics may fail on them')


def check_mask_head(model: nn.Module, cfg: dict, where: str) -> None:
    """Make sure that a two-stage detector with a mask head is given masks; arguments as :func:`check_heads`.

    Raises:
        UserError: the pipeline loads none.
    """
    if not getattr(getattr(model, 'roi_head', None), 'with_mask', False):
        return
    for name, dataset in unwrap(cfg, where):
        load = find_step(dataset, 'LoadAnnotations')
        if load and not load.get('with_mask'):
            raise UserError(f'the model has a mask head, and LoadAnnotations loads no masks in {name}')
