# SPDX-License-Identifier: Apache-2.0
"""What can be known before the Runner is made, which creates the work_dir first of all."""

import copy
import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import LOOPS, MODELS, DefaultScope
from torch import nn

from carafe_plugin.runtime.config_parts import type_name
from carafe_plugin.runtime.data_checks import check_data, check_model
from carafe_plugin.runtime.errors import UserError

from .inpaint_files import check_inpainting_dataset
from .start_files import check_weight_files


def check_config(cfg: Config, splits: tuple[str, ...]) -> nn.Module:
    """Find what would fail later, and say it in one line.

    Checked are mixed precision without a GPU, the arguments of the training loop, random pictures for cached
    features, the data (see :func:`check_data`), whether the model can be built, upsamplers included, its
    heads against the classes, and the files it gets its first weights from.

    Args:
        cfg: complete config; not changed.
        splits: some of ``'train'``, ``'val'``, ``'test'``.

    Returns:
        The model, for what is to be checked of it.

    Raises:
        UserError: names the cause.
    """
    if 'train' in splits:
        _check_amp(cfg)
        _check_loop(cfg)
        _check_cache(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        check_data(cfg, splits)
        for split in splits:
            if isinstance(dataset := (cfg.get(f'{split}_dataloader') or {}).get('dataset'), dict):
                check_inpainting_dataset(dataset, f'{split}_dataloader.dataset')
        model = build_model(cfg)
        check_model(model, cfg, splits)
    if 'train' in splits:
        check_weight_files(model)
    return model


def _check_amp(cfg: Config) -> None:
    kind = type_name(cfg.get('optim_wrapper') or {})
    if kind == 'AmpOptimWrapper' and get_device() in ('cpu', 'mps'):
        raise UserError('mixed precision (--amp, AmpOptimWrapper) needs a GPU, and torch finds none here')


def _check_loop(cfg: Config) -> None:
    """A misspelt length would end the run after its work_dir is made, in mmengine's traceback."""
    given = cfg.get('train_cfg') or {}
    name = type_name(given) or ('EpochBasedTrainLoop' if given.get('by_epoch') else 'IterBasedTrainLoop')
    if (loop := LOOPS.get(name)) is None:
        return  # a name that the Runner will complain of, or a class of the user's own
    arguments = {key: value for key, value in given.items() if key not in ('type', 'by_epoch', '_scope_')}
    signature = inspect.signature(loop)
    try:
        signature.bind(runner=None, dataloader=None, **arguments)
    except TypeError as error:
        known = [key for key in signature.parameters if key not in ('runner', 'dataloader')]
        raise UserError(f'train_cfg: {error}; {name} takes {", ".join(known)}') from None


def _check_cache(cfg: Config) -> None:
    """A probe that reads its features from disk needs the same picture of an image each time."""
    if not cfg.model.get('cache'):
        return
    for step in cfg.train_dataloader.dataset.get('pipeline') or []:
        name = type_name(step)
        if name.startswith(('Random', 'PhotoMetric', 'Albu')) and step.get('prob') != 0:
            raise UserError(
                f'model.cache={cfg.model.cache} keeps one picture of each image, and {name} in '
                'train_dataloader.dataset.pipeline changes it at random: set its prob=0 or model.cache=None'
            )


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config, in the registry scope that is set.

    Raises:
        UserError: it cannot be built; names the cause.
    """
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with building():
        return MODELS.build(model)


@contextmanager
def building() -> Iterator[None]:
    """Turn whatever goes wrong while a model is built into a :class:`UserError`.

    Constructors of the OpenMMLab packages assert; where an assertion has no text, its line is told.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a constructor's own check, or what a wrong value led to
        # str() of a KeyError quotes its text.
        cause = error.args[0] if isinstance(error, KeyError) and error.args else error
        if not str(cause):
            place = traceback.extract_tb(error.__traceback__)[-1]
            cause = (
                f'{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {place.line}'
            )
        raise UserError(f'the model cannot be built: {cause}') from error
