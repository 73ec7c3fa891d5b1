# SPDX-License-Identifier: Apache-2.0
"""The step that heads without a sum share: up to the size of a finer map."""

from torch import Tensor

from carafe_plugin.ops.tensors import ints
from carafe_plugin.upsamplers import Upsampler, fit


def lift(upsampler: Upsampler, x: Tensor, guide: Tensor) -> Tensor:
    """Upsample ``x`` to the size of ``guide``, by the size policy of :func:`carafe_plugin.upsamplers.fit`.

    Maps of one size (dilated stages) pass unchanged. A map of 1 x 1 pixel does go through the upsampler,
    whose parameters then stay in the graph.
    """
    size = ints(guide.shape[-2:])
    if ints(x.shape[-2:]) == size and max(size) > 1:
        return x
    return fit(upsampler(x, guide), guide.shape[-2:], upsampler.scale_factor)
