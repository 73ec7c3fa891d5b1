#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Weights of DINO or DINOv2 for the probes: python tools/convert_vit.py WEIGHTS --out FILE."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Turn weights of facebook, timm, Hugging Face or an ONNX graph into those of a FrozenViT.'
    )
    parser.add_argument('weights', type=Path, help='.pth, .pt, .bin, .safetensors or .onnx')
    parser.add_argument('--out', type=Path, required=True, help='file to write')
    parser.add_argument('--blocks', type=int, help='keep the first so many blocks, without the final norm')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import torch

from carafe_tools.command import run_command
from carafe_tools.vit_weights import architecture, convert, read_weights


def convert_vit(argv: Sequence[str] | None) -> None:
    args = parse_args(argv)
    state = convert(read_weights(args.weights), args.blocks)
    shape = architecture(state)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=state, meta=dict(shape, source=args.weights.name)), args.out)
    arguments = ', '.join(f'{key}={value}' for key, value in shape.items())
    print(f"backbone=dict(type='FrozenViT', weights='{args.out}', {arguments})")


def main(argv: Sequence[str] | None = None) -> None:
    run_command(convert_vit, argv)


if __name__ == '__main__':
    main()
