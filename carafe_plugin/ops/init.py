# SPDX-License-Identifier: Apache-2.0
"""How layers start."""

from torch import nn


def init_conv(layer: nn.Module, std: float | None = None) -> None:
    """Xavier-uniform weights, or normal ones of a standard deviation, and zero biases, if it has any."""
    for name, parameter in layer.named_parameters():
        if name == 'bias':
            nn.init.zeros_(parameter)
        elif std is None:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.normal_(parameter, std=std)
