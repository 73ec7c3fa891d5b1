# SPDX-License-Identifier: Apache-2.0
"""What command lines share, without anything that takes long to load."""

import argparse
from collections.abc import Sequence


class DictAction(argparse.Action):
    """:class:`mmengine.config.DictAction`, loaded where it is first used: ``--help`` need not wait for it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence | None,
        option_string: str | None = None,
    ) -> None:
        from mmengine.config import DictAction

        DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both ``train.py`` and ``test.py``, spelled as in the OpenMMLab tools."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default work_dirs/<config name>')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override the config, e.g. model.neck.upsample_cfg.type=bilinear; a list as key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
