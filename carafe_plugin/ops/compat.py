# SPDX-License-Identifier: Apache-2.0
"""What torch has under other names, or not yet, in the versions since 2.1.

Each function goes when the oldest torch that is served has it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import flop_counter

VERSION = tuple(map(int, torch.__version__.split('.')[:2]))

_library = torch.library.Library('carafe_plugin', 'IMPL')


def is_compiling() -> bool:
    """As :func:`torch.compiler.is_compiling` of torch 2.3; before 2.4 nothing of ours is compiled."""
    return VERSION >= (2, 4) and torch.compiler.is_compiling()


def is_differentiated_by_func() -> bool:
    """Whether a call is inside of ``torch.func.grad``, ``vjp``, ``jvp`` or what is made of them."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    kinds = torch._C._functorch.TransformType
    return any(interpreter.key() in (kinds.Grad, kinds.Jvp) for interpreter in stack)


# As torch.compiler.assume_constant_result, which would import the whole compiler: torch.compile cannot look
# at the stack, but its graph is for one stack only.
is_differentiated_by_func._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_autocast_enabled(device_type: str) -> bool:
    """As :func:`torch.is_autocast_enabled`, which takes a device type from torch 2.4 on."""
    if VERSION >= (2, 4):
        return torch.is_autocast_enabled(device_type)
    if device_type == 'cpu':
        return torch.is_autocast_cpu_enabled()
    return device_type == 'cuda' and torch.is_autocast_enabled()


def register_fake(name: str, function: Callable) -> None:
    """As :func:`torch.library.register_fake` of torch 2.4; before it for meta tensors alone."""
    if hasattr(torch.library, 'register_fake'):
        torch.library.register_fake(f'carafe_plugin::{name}', function)
    else:
        _library.impl(name, function, 'Meta')


def register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    """As :func:`torch.library.register_autograd` of torch 2.4; before it by an autograd function."""
    if hasattr(torch.library, 'register_autograd'):
        torch.library.register_autograd(f'carafe_plugin::{name}', backward, setup_context=setup_context)
        return
    operator = getattr(torch.ops.carafe_plugin, name).default
    defaults = [argument.default_value for argument in operator._schema.arguments]

    def forward(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    members = dict(forward=forward, setup_context=setup_context, backward=backward)
    function: Any = type(name, (torch.autograd.Function,), {k: staticmethod(v) for k, v in members.items()})

    def kernel(*args: Any) -> Any:  # without those at the end that have their default
        return function.apply(*args, *defaults[len(args) :])

    _library.impl(name, kernel, 'Autograd')


def register_vmap(name: str, rule: Callable) -> None:
    """As :func:`torch.library.register_vmap` of torch 2.5; before it vmap calls the operator in a loop."""
    if hasattr(torch.library, 'register_vmap'):
        torch.library.register_vmap(f'carafe_plugin::{name}', rule)


def register_flop_formula(operators: list, formula: Callable) -> None:
    """As :func:`torch.utils.flop_counter.register_flop_formula`, which torch 2.1 lacks and 2.4 has wrong."""
    if VERSION >= (2, 7):
        flop_counter.register_flop_formula(operators)(formula)
    elif hasattr(flop_counter, 'flop_registry'):
        wrapped = flop_counter.shape_wrapper(formula)
        flop_counter.flop_registry.update(dict.fromkeys(operators, wrapped))
    else:
        flop_counter.flop_mapping.update(dict.fromkeys(operators, formula))  # type: ignore[attr-defined]
