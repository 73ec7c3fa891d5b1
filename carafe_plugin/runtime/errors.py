# SPDX-License-Identifier: Apache-2.0
"""Mistakes of the user, told in one line."""

import os
import sys

_RANK_VARIABLES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


class UserError(Exception):
    """What the user gave cannot work; the message names the cause and needs no traceback."""


def is_first_process() -> bool:
    """Whether this is rank 0 of those that torchrun, Slurm or MPI started, or alone."""
    return all(os.environ.get(name, '0') == '0' for name in _RANK_VARIABLES)


def notice(text: str) -> None:
    """Tell the user something on stderr before the Runner, and with it the log, exists."""
    if is_first_process():
        print('note:', text, file=sys.stderr)
