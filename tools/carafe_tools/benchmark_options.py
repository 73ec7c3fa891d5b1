# SPDX-License-Identifier: Apache-2.0
"""The command line of ``tools/benchmark.py``, without torch."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

DTYPES = ('float32', 'bfloat16', 'float16')
DEFAULT_DTYPES = dict(cpu=['float32', 'bfloat16'], cuda=list(DTYPES))
#: Inputs (N, C, H, W). p2 to p5: levels of an 800 x 1333 image; roi: mask heads; uper: UperNet at 512 x 512.
SIZES = dict(
    p5=(1, 256, 25, 42),
    p4=(1, 256, 50, 84),
    p3=(1, 256, 100, 168),
    p2=(1, 256, 200, 336),
    roi2=(2, 256, 14, 14),
    roi100=(100, 256, 14, 14),
    roi512=(512, 256, 14, 14),
    uper16=(1, 512, 16, 16),
    uper32=(1, 512, 32, 32),
    uper64=(1, 512, 64, 64),
)
DEFAULT_SIZES = dict(
    cpu=('p5', 'p4', 'p3', 'roi2'),
    cuda=('p5', 'p4', 'p3', 'p2', 'roi100', 'roi512', 'uper64'),
)
EXPORT_SIZES = ('p5', 'p4', 'p3', 'roi100')


def registered() -> list[str]:
    from carafe_plugin.upsamplers import UPSAMPLERS

    return list(UPSAMPLERS)


def set_ups() -> list[str]:
    from .published import SETUPS

    return list(SETUPS)


def names_of(known: Sequence[str] | Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """Parser of a comma-separated list of known names; 'all' means every one.

    Names whose list takes long to load come as a function.
    """

    def parse(text: str) -> list[str]:
        nonlocal known
        known = known() if callable(known) else known
        names = list(known) if text == 'all' else list(dict.fromkeys(text.split(',')))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f'unknown name {name!r}; known: {", ".join(known)}')
        return names

    return parse


def map_sizes(text: str) -> list[tuple[int, ...]]:
    sizes = []
    for part in text.split(','):
        try:
            size = tuple(map(int, part.split('x')))
        except ValueError:
            size = ()
        if len(size) != 4 or min(size) < 1:
            raise argparse.ArgumentTypeError(f'{part!r} is not NxCxHxW')
        sizes.append(size)
    return sizes


def thread_counts(text: str) -> list[int]:
    counts = text.split(',')
    if not all(count.isdecimal() and int(count) for count in counts):
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of numbers of threads')
    return sorted(set(map(int, counts)))


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument('--out', type=Path, help='default: work_dirs/benchmark/DEVICE')
    every.add_argument(
        '--seconds', type=float, default=0.6, help='for each alternative (default: %(default)s)'
    )
    common = argparse.ArgumentParser(add_help=False, parents=[every])
    common.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    op = commands.add_parser('op', parents=[common], help='the operator')
    op.add_argument(
        '--dtypes', type=names_of(DTYPES), metavar='A,B',
        help='the first one is compared in every form (default: float32,bfloat16, on cuda float16 too)',
    )  # fmt: skip
    op.add_argument(
        '--sizes', type=names_of(list(SIZES)), metavar='A,B',
        help=f'of {", ".join(SIZES)}, or all (default: those with bars)',
    )  # fmt: skip
    op.add_argument(
        '--no-forms', action='store_true', help='leave out the plain PyTorch forms (slow to compile)'
    )
    module = commands.add_parser('module', parents=[common], help='whole upsamplers')
    module.add_argument(
        '--upsamplers', type=names_of(registered), metavar='A,B', help='default: all that are registered',
    )  # fmt: skip
    module.add_argument(
        '--sizes', type=map_sizes, default=[(1, 256, 50, 84), (1, 256, 100, 168)], metavar='NxCxHxW,...'
    )
    detector = commands.add_parser('detector', parents=[common], help="a config's model")
    detector.add_argument('config')
    detector.add_argument('--image-size', type=int, nargs=2, default=(800, 1344), metavar=('H', 'W'))
    detector.add_argument('--batch', type=int, default=1)
    others = commands.add_parser('published', parents=[common], help='set-ups of other papers')
    others.add_argument(
        '--setups', type=names_of(set_ups), metavar='A,B', help='default: all that are known',
    )  # fmt: skip
    others.add_argument('--csv', type=Path, help='table to add the rows to (default: OUT/published.csv)')
    threads = commands.add_parser('scaling', parents=[every], help='over CPU threads')
    threads.set_defaults(device='cpu')
    threads.add_argument(
        '--threads', type=thread_counts,
        metavar='1,2,...', help='default: powers of two up to those that torch takes',
    )  # fmt: skip
    threads.add_argument('--config', default='configs/coco/mask-rcnn_r50_fpn-carafe_1x_coco.py')
    threads.add_argument('--image-size', type=int, nargs=2, default=(480, 640), metavar=('H', 'W'))
    exports = commands.add_parser('export', parents=[every], help='runtimes that a layer is exported to')
    exports.set_defaults(device='cpu')
    exports.add_argument(
        '--threads', type=thread_counts, metavar='1,2,...', default=[1, 2], help='default: 1,2'
    )
    known = [size for size in SIZES if not size.startswith('uper')]
    exports.add_argument(
        '--sizes', type=names_of(known), default=EXPORT_SIZES, metavar='A,B',
        help=f'of {", ".join(known)} (default: {",".join(EXPORT_SIZES)})',
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.seconds <= 0:
        parser.error('--seconds must be above 0')
    if args.command == 'op' and args.sizes is None:
        args.sizes = DEFAULT_SIZES[args.device]
    if args.command == 'op' and args.dtypes is None:
        args.dtypes = DEFAULT_DTYPES[args.device]
    args.out = args.out or Path('work_dirs', 'benchmark', args.device)
    if args.command == 'published' and args.csv is None:
        args.csv = args.out / 'published.csv'
    return args
