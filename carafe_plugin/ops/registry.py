# SPDX-License-Identifier: Apache-2.0
"""Classes by name, and what a config field says about one of them."""

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

Base = TypeVar('Base')
Member = TypeVar('Member', bound=type)


class Registry(Generic[Base]):
    """Subclasses of a base class by name.

    Smaller than mmengine's, with which a CARAFE layer would need mmengine.

    Args:
        kind: what is registered, for error messages.
        field: name of the config field that :meth:`resolve` reads, for error messages.
    """

    def __init__(self, kind: str, field: str) -> None:
        self.kind, self.field = kind, field
        self._classes: dict[str, Any] = {}

    def register_module(self, name: str, *, force: bool = False) -> Callable[[Member], Member]:
        """Class decorator that enters a class under ``name``; ValueError where the name is taken.

        ``force`` replaces what is there, as when the cell of a notebook runs again.
        """

        def register(cls: Member) -> Member:
            if name in self._classes and not force:
                raise ValueError(f'{self.kind} {name!r} is already registered: {self._classes[name]}')
            self._classes[name] = cls
            return cls

        return register

    def get(self, name: str) -> type[Base]:
        """Class of that name, or by its dotted path; ValueError listing the known names where there is none.

        A path is what mmengine writes where a config had the class itself.
        """
        if name in self._classes:
            return self._classes[name]
        module, _, attribute = name.rpartition('.')
        found = None
        if module:
            with contextlib.suppress(ImportError):
                found = getattr(importlib.import_module(module), attribute, None)
        if not isinstance(found, type):
            raise ValueError(f'unknown {self.kind} {name!r}; known: {", ".join(self)}')
        return found

    def resolve(self, cfg: Mapping, given: Sequence[str] = ()) -> tuple[type[Base], dict]:
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
        accepted = inspect.signature(cls).parameters
        known = [name for name in accepted if name not in given]
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
