# SPDX-License-Identifier: Apache-2.0
"""A script's main: mistakes of the user end it with one line."""

import sys
import warnings
from collections.abc import Callable, Sequence

from carafe_plugin.runtime.errors import UserError, is_first_process


def run_command(command: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None) -> None:
    """Run a command-line tool; a :class:`UserError` becomes one line on stderr and exit code 1.

    Every other exception passes with its traceback. Of several processes only the first one speaks.
    """
    # mmengine's own business, twice on stderr in every run.
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
    # Of every box that ends at an image's border.
    warnings.filterwarnings('ignore', r'Warning: The \w+ is out of bounds', UserWarning)
    try:
        command(argv)
    except UserError as error:
        if is_first_process():
            print('error:', ' '.join(str(error).split()), file=sys.stderr)
        raise SystemExit(1) from None
