# SPDX-License-Identifier: Apache-2.0
"""Reading the parts of a config: what a ``type`` means, and what a wrapper holds."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.registry import DATASETS

from .errors import UserError


def type_name(cfg: dict) -> str:
    """Class name that a config's ``type`` means: a name with or without scope, or the class itself."""
    kind = cfg.get('type', '')
    return kind.__name__ if isinstance(kind, type) else str(kind).split('.')[-1]


def as_list(evaluators: dict | list | None) -> list[dict]:
    """Return the evaluators of a config, which may be one, several or none, as a list.

    Raises:
        UserError: one of them is no dict.
    """
    if evaluators is None:
        return []
    listed = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    for evaluator in listed:
        if not isinstance(evaluator, dict):
            raise UserError(f'an evaluator must be a dict with a type, got {evaluator!r}')
    return listed


def unwrap(cfg: dict, where: str) -> Iterator[tuple[str, dict]]:
    if 'dataset' in cfg:
        yield from unwrap(cfg['dataset'], f'{where}.dataset')
    elif 'datasets' in cfg:
        for index, inner in enumerate(cfg['datasets']):
            yield from unwrap(inner, f'{where}.datasets[{index}]')
    else:
        yield where, cfg


def dataset_class(cfg: dict) -> Any:
    """The class that a dataset config means; ``object`` where that is unknown."""
    kind = cfg.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
            kind = registry.get(kind)
    # An unknown name, or a function, is the Runner's business.
    return kind if isinstance(kind, type) else object


def steps(dataset: dict) -> Iterator[dict]:
    """The transforms of a data set's pipeline, those inside others included (test-time augmentation)."""
    yield from _nested(dataset.get('pipeline') or [])


def _nested(pipeline: Sequence) -> Iterator[dict]:
    for step in pipeline:
        if isinstance(step, dict):
            yield step
            yield from _nested(step.get('transforms') or [])
        elif isinstance(step, (list, tuple)):
            yield from _nested(step)


def find_step(dataset: dict, name: str) -> dict | None:
    """The first transform of a class in a data set's pipeline."""
    return next((step for step in steps(dataset) if type_name(step) == name), None)
