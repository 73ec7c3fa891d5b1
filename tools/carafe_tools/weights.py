# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint is of a model: the same question, and the same words, in every tool."""

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from carafe_plugin.runtime.checkpoint import check_checkpoint
from carafe_plugin.runtime.config_parts import dataset_class, unwrap
from carafe_plugin.runtime.errors import UserError, notice

TRAINING_ALONE = ('auxiliary_head.', 'discriminator.')  # a prediction does without them
SHOWN = 4  # parts of a model that a message names


@dataclass
class Fit:
    """What of a checkpoint's weights found its place in a model.

    Args:
        total: number of the model's weights, the statistics of batch norms among them.
        missing: names of those that the checkpoint has not.
        reshaped: those that it has in another shape, with both shapes, the model's first.
        unused: names of the checkpoint's weights that the model has not.
    """

    total: int
    missing: list[str]
    reshaped: dict[str, tuple[tuple, tuple]]
    unused: list[str]

    @property
    def taken(self) -> int:
        return self.total - len(self.missing) - len(self.reshaped)

    def misfits(self) -> str:
        """What is not there, or in another shape, by the parts of the model."""
        told = []
        if self.missing:
            told.append(f'missing are {_parts(self.missing)}')
        if self.reshaped:
            name, (wanted, found) = next(iter(self.reshaped.items()))
            told.append(
                f'of another shape are {_parts(self.reshaped)}: {name} of {found}, in the model {wanted}'
            )
        return ', '.join(told)


def _parts(names: Iterable[str]) -> str:
    """Weights counted by part: ``neck.upsamplers.* (6), roi_head.bbox_head.* (4)``."""
    counts = Counter('.'.join(name.split('.')[:2]) for name in names)
    shown = [f'{part}.* ({count})' for part, count in list(counts.items())[:SHOWN]]
    more = sum(list(counts.values())[SHOWN:])
    return ', '.join(shown) + (f' and {more} more' if more else '')


def load_weights(model: nn.Module, checkpoint: dict) -> Fit:
    """Load the weights that fit, as mmengine's Runner does, renamings of the model's own classes included.

    Args:
        model: changed in place.
        checkpoint: a state dict, or a dict that has one under ``state_dict``.
    """
    stored = checkpoint.get('state_dict', checkpoint)
    state = {
        name.removeprefix('module.'): value for name, value in stored.items() if isinstance(value, Tensor)
    }
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    reshaped = {
        name: (own[name], tuple(value.shape))
        for name, value in state.items()
        if name in own and own[name] != tuple(value.shape)
    }
    fitting = type(stored)((name, value) for name, value in state.items() if name not in reshaped)
    if hasattr(stored, '_metadata'):
        fitting._metadata = stored._metadata  # versions, by which classes know what they have to rename
    result = model.load_state_dict(fitting, strict=False)
    # Other buffers come and go with the versions of a toolbox, and are made anew.
    weights = {name for name, _ in model.named_parameters()}
    weights |= {name for name in own if name.endswith(('.running_mean', '.running_var'))}
    missing = [name for name in result.missing_keys if name in weights and name not in reshaped]
    reshaped = {name: shapes for name, shapes in reshaped.items() if name in weights}
    return Fit(len(weights), missing, reshaped, list(result.unexpected_keys))


def read_weights(path: str, near: str) -> dict:
    """Read a checkpoint for a prediction, fetching one that is no local file.

    Raises:
        UserError: it cannot be read; the message names the latest good one in its folder or in ``near``.
    """
    checkpoint = check_checkpoint(path, near)
    if checkpoint is None:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    return checkpoint


def check_weights(
    model: nn.Module, checkpoint: dict, path: str, config: str, only: tuple[str, ...] = ('',)
) -> None:
    """Load a checkpoint for a prediction; the model must get all weights that one needs.

    Args:
        model: changed in place.
        checkpoint: what ``path`` holds.
        path: the checkpoint's file, for messages.
        config: the model's config, for messages.
        only: beginnings of the names that count.

    Raises:
        UserError: weights are missing or of another shape; says which, by part of the model. Weights that
            the model has no place for are told in a notice.
    """
    fit = load_weights(model, checkpoint)

    def counts(name: str) -> bool:
        return name.startswith(only) and not name.startswith(TRAINING_ALONE)

    needed = Fit(
        fit.total,
        [name for name in fit.missing if counts(name)],
        {name: shapes for name, shapes in fit.reshaped.items() if counts(name)},
        [],
    )
    if misfits := needed.misfits():
        own = Path(path).with_name(Path(config).name)
        advice = f'; {own} is the config of its run' if own.is_file() and own != Path(config) else ''
        raise UserError(
            f'{path} is of another model than {config} with its {fit.total} weights: {misfits}{advice}'
        )
    if unused := [name for name in fit.unused if counts(name)]:
        notice(f'{path}: {len(unused)} weights have no place in {config}: {_parts(unused)}')


def check_classes(cfg: Config, checkpoint: dict, path: str) -> None:
    """Tell of a checkpoint that was trained on other classes than the test data has, or in another order.

    Args:
        cfg: complete config.
        checkpoint: what ``path`` holds; one without classes passes.
        path: its file, for messages.
    """
    trained = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes')
    if not trained:
        return
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        for name, dataset in unwrap(cfg.test_dataloader.dataset, 'test_dataloader.dataset'):
            meta = getattr(dataset_class(dataset), 'METAINFO', {}) | (dataset.get('metainfo') or {})
            pairs = enumerate(zip(trained, meta.get('classes') or (), strict=False))
            different = [(label, *classes) for label, classes in pairs if classes[0] != classes[1]]
            if different:
                label, theirs, ours = different[0]
                notice(
                    f'{path} was trained on other classes than {name} has: '
                    f'{len(different)} differ, label {label} was {theirs} and is {ours}'
                )


def check_start(cfg: Config, model: nn.Module) -> None:
    """Hold what a training starts from to its model: a resumed run must fit, other weights are counted.

    Args:
        cfg: complete config; not changed.
        model: built from it; changed in place.

    Raises:
        UserError: a run cannot be resumed with this model or optimizer, or not one weight of ``load_from``
            has a place in the model.
    """
    path = cfg.get('load_from')
    if not path or ('://' in path and cfg.launcher != 'none'):  # every process would fetch it
        return
    checkpoint = read_weights(path, cfg.work_dir)
    fit = load_weights(model, checkpoint)
    if cfg.get('resume'):
        misfits = fit.misfits()
        if fit.unused:
            misfits = ', '.join(filter(None, (misfits, f'no place is for {_parts(fit.unused)}')))
        if not misfits:
            misfits = _optimizer_misfit(cfg, model, checkpoint)
        if misfits:
            raise UserError(
                f'{path} cannot be resumed by {cfg.filename}: {misfits}; '
                f'--cfg-options load_from={path} would start a new run from the weights that fit'
            )
        return
    if not fit.taken:
        raise UserError(
            f'load_from {path}: none of its {len(fit.unused)} weights has a place in the model'
            f'{"" if fit.reshaped else _pretrained_hint(fit)}'
        )
    unused = f'not used are {_parts(fit.unused)}' if fit.unused else ''
    if told := ', '.join(filter(None, (fit.misfits(), unused))):
        notice(f'load_from {path}: {fit.taken} of the {fit.total} weights of the model are taken; {told}')


def _pretrained_hint(fit: Fit) -> str:
    first = f' (its first is {fit.unused[0]})' if fit.unused else ''
    return f"{first}; a backbone's alone belong into model.backbone.init_cfg=dict(type='Pretrained', ...)"


def _optimizer_misfit(cfg: Config, model: nn.Module, checkpoint: dict) -> str:
    """Why the optimizer of a config could not take the state of a checkpoint's; empty if it can."""
    saved = checkpoint.get('optimizer')
    if saved is None:
        return ''
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    pairs = [(saved, wrapper)]
    if isinstance(wrapper, OptimWrapperDict):
        pairs = [(saved.get(name) or {}, part) for name, part in wrapper.items()]
    for state, part in pairs:
        groups = state.get('param_groups')
        if groups is None:
            return 'its optimizer is of another kind'
        sizes, own = ([len(group['params']) for group in g] for g in (groups, part.optimizer.param_groups))
        if sizes != own:
            return (
                f'its optimizer has {sum(sizes)} weights in {len(sizes)} groups, '
                f"the config's {sum(own)} in {len(own)}"
            )
        needed = _hyperparameters(part.optimizer.param_groups[0]) - groups[0].keys()
        if needed:
            kind = type(part.optimizer).__name__
            return f'its optimizer has no {", ".join(sorted(needed))}, which {kind} needs'
    return ''


def _hyperparameters(group: dict) -> set[str]:
    """Names of an optimizer's numbers; its switches differ between versions of torch, and have defaults."""
    numbers = (name for name, value in group.items() if isinstance(value, (int, float, tuple)))
    return {name for name in numbers if not isinstance(group[name], bool)}
