# SPDX-License-Identifier: Apache-2.0
"""The registry of upsamplers and the builder behind every ``upsample_cfg`` field."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence

from .base import Upsampler


class Registry:
    """Classes by name; smaller than mmengine's, which would make a CARAFE layer need mmengine.

    Args:
        kind: what is registered, for error messages.
        field: name of the config field that :meth:`resolve` reads, for the same.
    """

    def __init__(self, kind: str, field: str) -> None:
        self.kind, self.field = kind, field
        self._classes: dict[str, type] = {}

    def register_module(self, name: str) -> Callable[[type], type]:
        """Class decorator that enters a class under ``name``; ValueError where the name is taken."""

        def register(cls: type) -> type:
            if name in self._classes:
                raise ValueError(f'{self.kind} {name!r} is already registered: {self._classes[name]}')
            self._classes[name] = cls
            return cls

        return register

    def get(self, name: str) -> type:
        """Class of that name; ValueError listing the known names where there is none."""
        if name not in self._classes:
            raise ValueError(f'unknown {self.kind} {name!r}; known: {", ".join(self)}')
        return self._classes[name]

    def resolve(self, cfg: Mapping, given: Sequence[str] = ()) -> tuple[type, dict]:
        """Split ``dict(type=NAME or class, ...)`` into the class and its arguments.

        Args:
            cfg: the field's value.
            given: arguments that the host gives and a config must not.

        Raises:
            TypeError: ``cfg`` is not a mapping, or holds an argument that the class does not take.
            ValueError: ``type`` is missing or unknown.
        """
        if not isinstance(cfg, Mapping):
            raise TypeError(f'{self.field} must be a dict, got {cfg!r}')
        arguments = dict(cfg)
        kind = arguments.pop('type', None)
        if kind is None:
            raise ValueError(f'{self.field} must name its type, got {dict(cfg)}; known: {", ".join(self)}')
        cls = kind if isinstance(kind, type) else self.get(kind)
        accepted = inspect.signature(cls.__init__).parameters
        known = [name for name in accepted if name not in ('self', *given)]
        unknown = [name for name in arguments if name not in known]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            raise TypeError(
                f'{self.kind} {kind!r} takes no argument {", ".join(map(repr, unknown))}; '
                f'it takes {", ".join(known)}. Left over from another type? '
                f'Set {self.field}._delete_=True beside the new type'
            )
        return cls, arguments

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))


UPSAMPLERS = Registry('upsampler', 'upsample_cfg')


def build_upsampler(
    cfg: Mapping,
    in_channels: int,
    scale_factor: int = 2,
    *,
    guide_channels: int | None = None,
) -> Upsampler:
    """Build the upsampler that an ``upsample_cfg`` names.

    Args:
        cfg: ``dict(type=NAME, ...)`` with NAME registered in :data:`UPSAMPLERS` (or a class) and further
            arguments of that class.
        in_channels: channels of the map to upsample.
        scale_factor: ratio that the host needs.
        guide_channels: channels of the finer map that the host offers; None where it has none.

    Raises:
        TypeError: ``cfg`` is not a mapping, or holds an argument that the class does not take.
        ValueError: ``type`` is missing or unknown, ``scale_factor`` contradicts the host, or the upsampler
            needs a guide that the host does not have.

    Example:
        >>> from carafe_plugin.upsamplers import build_upsampler
        >>> build_upsampler(dict(type='carafe', up_kernel=7), in_channels=256).up_kernel
        7
    """
    cls, arguments = UPSAMPLERS.resolve(cfg, given=('in_channels', 'guide_channels'))
    if arguments.setdefault('scale_factor', scale_factor) != scale_factor:
        raise ValueError(
            f'upsample_cfg asks for scale_factor={arguments["scale_factor"]}, '
            f'this place upsamples by {scale_factor}'
        )
    if cls.needs_guide:
        if guide_channels is None:
            unguided = ', '.join(name for name in UPSAMPLERS if not UPSAMPLERS.get(name).needs_guide)
            raise ValueError(
                f'upsampler {cfg["type"]!r} needs a guide (a finer map), and this place has none; '
                f'set upsample_cfg.type to one of {unguided}'
            )
        arguments['guide_channels'] = guide_channels
    return cls(in_channels, **arguments)
