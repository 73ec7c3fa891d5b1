#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Test a checkpoint of any OpenMMLab config: python tools/test.py CONFIG CHECKPOINT [options].

For COCO test-dev, point test_dataloader and test_evaluator at image_info_test-dev2017.json and give
``--format-only PREFIX``: PREFIX.bbox.json and PREFIX.segm.json are what the server takes.
"""

import argparse
from collections.abc import Sequence

from carafe_tools.options import add_common_arguments
from carafe_tools.threads import share_busy_cores


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a model.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out', metavar='FILE.pkl', help='also write the predictions as a pickle file')
    parser.add_argument('--show-dir', metavar='DIR', help='also draw the predictions into a folder')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--format-only',
        metavar='PREFIX',
        help='write COCO result files PREFIX.bbox.json, PREFIX.segm.json and evaluate nothing',
    )
    add_common_arguments(parser)
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, got {args.out}')
    return args


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded
    share_busy_cores()  # before it, too

from carafe_plugin.runtime.distributed import leave_processes
from carafe_plugin.runtime.errors import is_first_process
from carafe_tools import evaluation
from carafe_tools.command import run_command
from carafe_tools.launch import build_runner, load_config
from carafe_tools.preflight import check_config
from carafe_tools.weights import check_classes, check_weights, read_weights


def test(argv: Sequence[str] | None) -> None:
    args = parse_args(argv)
    cfg = load_config(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    checkpoint = read_weights(args.checkpoint, cfg.work_dir)
    if args.show_dir:
        evaluation.draw_predictions(cfg, args.show_dir)
    if args.format_only:
        evaluation.only_format(cfg, args.format_only)
    if args.tta:
        evaluation.use_test_time_augmentation(cfg)
    if args.out:
        evaluation.dump_predictions(cfg, args.out)
    model = check_config(cfg, ('test',))
    check_weights(model.module if args.tta else model, checkpoint, args.checkpoint, args.config)
    check_classes(cfg, checkpoint, args.checkpoint)
    build_runner(cfg).test()
    leave_processes()
    if args.show_dir and is_first_process():
        print(f'ground truth beside prediction -> {args.show_dir}')


def main(argv: Sequence[str] | None = None) -> None:
    run_command(test, argv)


if __name__ == '__main__':
    main()
