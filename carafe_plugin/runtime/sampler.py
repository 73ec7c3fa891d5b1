# SPDX-License-Identifier: Apache-2.0
"""A sampler whose draws are numbered, so that what is random about one can follow from its number."""

import itertools
from collections.abc import Iterator

from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATA_SAMPLERS


class Draw(int):
    """An index that knows its place in the run.

    Attributes:
        entropy: the sampler's seed and the number of the draw, counted from 0 over all processes.
    """

    entropy: tuple[int, int]


@DATA_SAMPLERS.register_module()
class NumberedSampler(InfiniteSampler):
    """mmengine's ``InfiniteSampler``, of the same order, yielding :class:`Draw` instead of plain indices.

    A data set that seeds its randomness by ``index.entropy`` gives the same image for the same draw in any
    worker, and after a resume. To any other data set a draw is an index.
    """

    def _indices_of_rank(self) -> Iterator[Draw]:
        numbered = enumerate(self._infinite_indices())
        for number, index in itertools.islice(numbered, self.rank, None, self.world_size):
            draw = Draw(index)
            draw.entropy = (self.seed, number)
            yield draw
