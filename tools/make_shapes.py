# SPDX-License-Identifier: Apache-2.0
"""Generates the quick-start data, for example `python tools/make_shapes.py data/shapes`."""

import argparse
import sys
from collections.abc import Sequence


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('out', help='folder to write; reused when it holds the same data already')
    parser.add_argument('--train', type=int, default=1000, help='number of training images')
    parser.add_argument('--val', type=int, default=100, help='number of validation images')
    parser.add_argument('--size', type=int, default=192, help='side of the square images, at least 192')
    parser.add_argument('--seed', type=int, default=0, help='equal seeds give equal files')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.runtime.errors import UserError
from carafe_tools.shapes import make_shapes


def main() -> None:
    args = parse_args()
    try:
        made = make_shapes(args.out, args.train, args.val, args.size, args.seed)
    except (OSError, UserError, ValueError) as error:
        sys.exit(f'make_shapes: {error}')
    state = 'made' if made else 'were there'
    print(f'{args.out}: {args.train} training and {args.val} validation images {state}')


if __name__ == '__main__':
    main()
