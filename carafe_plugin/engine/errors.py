# SPDX-License-Identifier: Apache-2.0
"""Mistakes of the user, told in one line."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence

_RANK_VARIABLES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


class UserError(Exception):
    """What the user gave cannot work; the message names the cause and needs no traceback."""


def _is_first_process() -> bool:
    return all(os.environ.get(name, '0') == '0' for name in _RANK_VARIABLES)


def notice(text: str) -> None:
    """Tell the user something on stderr before the Runner, and with it the log, exists."""
    if _is_first_process():
        print('note:', text, file=sys.stderr)


def run_command(command: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None) -> None:
    """Run a command-line tool; a :class:`UserError` becomes one line on stderr and exit code 1.

    Every other exception passes with its traceback. Of several processes only the first one speaks.
    """
    # mmengine's own business, twice on stderr in every run.
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
    try:
        command(argv)
    except UserError as error:
        if _is_first_process():
            print('error:', ' '.join(str(error).split()), file=sys.stderr)
        raise SystemExit(1) from None
