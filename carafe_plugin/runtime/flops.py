# SPDX-License-Identifier: Apache-2.0
"""Our operators in mmengine's FLOP analysis, which leaves out what it does not know."""

from math import prod
from typing import Any

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import generic_activation_jit


def count_operators() -> None:
    """Let ``mmengine.analysis.get_model_complexity_info`` count the operators.

    mmengine counts 1 for a multiply-add (``torch.utils.flop_counter`` 2), so that an operator has k*k for
    each element of the larger map; the softmax is left out. The plain PyTorch form of reassembly is made of
    ``aten::addcmul``, which gets 1 for each element, so that both forms give the same sum; that of
    ``correlate`` is not counted. Their results count as activations, like those of a convolution.
    """
    handles = complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS
    handles.setdefault('aten::addcmul', lambda inputs, outputs: _elements(outputs))
    for name in ('reassemble', 'reassemble_softmax'):
        handles[f'carafe_plugin::{name}'] = lambda inputs, outputs: _elements(outputs) * _square(inputs[2])
    handles['carafe_plugin::correlate'] = lambda inputs, outputs: _elements(inputs) * _square(inputs[2])
    handles['carafe_plugin::scatter'] = lambda inputs, outputs: _elements(inputs) * _square(inputs[4])
    for name in ('reassemble', 'reassemble_softmax', 'correlate', 'scatter'):
        activations = complexity_analysis._DEFAULT_SUPPORTED_ACT_OPS
        activations[f'carafe_plugin::{name}'] = generic_activation_jit()


def _elements(values: list) -> int:
    return prod(values[0].type().sizes())


def _square(kernel_size: Any) -> int:
    return kernel_size.toIValue() ** 2
