# SPDX-License-Identifier: Apache-2.0
"""Features of a frozen backbone on disk, so that an epoch of a probe runs no backbone."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

RECORD = 'backbone.txt'


class FeatureCache:
    """Read the backbone's features of an image from a folder; compute and write them where there are none.

    A file is named after the image's path and remembers the picture that the backbone saw, so that a pipeline
    that crops or flips at random, another image size or another normalisation is an error and gives no wrong
    features. The folder belongs to one backbone, by the values of its weights and its settings.

    Args:
        folder: made where there is none.
        backbone: what computes the features: its last output, a map (N, C, H, W) or a list of such a map
            and a class token.

    Raises:
        ValueError: in the call, the folder holds features of another backbone, an image comes without its
            path, its pipeline flips at random, or its picture is not the one of the file.
    """

    def __init__(self, folder: str, backbone: nn.Module) -> None:
        self.folder = Path(folder)
        self.backbone = backbone
        self._claimed = False

    def __call__(self, images: Tensor, metas: Sequence[dict]) -> Tensor | list[Tensor]:
        if not self._claimed:  # not earlier: a checkpoint may bring the weights
            self._claim()
        pictures = [_digest(image) for image in images]
        found: list = [self._read(picture, meta) for picture, meta in zip(pictures, metas, strict=True)]
        missing = [index for index, features in enumerate(found) if features is None]
        if missing:
            computed = self.backbone(images[missing])[-1]
            computed = computed if isinstance(computed, list) else [computed]
            for row, index in enumerate(missing):
                found[index] = [part[row].cpu() for part in computed]
                self._write(pictures[index], metas[index], found[index])
        stacked = [torch.stack(parts).to(images.device) for parts in zip(*found, strict=True)]
        return stacked if len(stacked) > 1 else stacked[0]

    def _claim(self) -> None:
        weights = _digest(*self.backbone.state_dict().values())
        text = f'{type(self.backbone).__name__} of weights {weights}, {self.backbone.extra_repr()}'
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.folder / RECORD
        if not record.exists():
            if any(self.folder.glob('*.pt')):
                raise ValueError(f'cache {self.folder} has features but no {RECORD}: remove it')
            part = _unfinished(record)
            part.write_text(text)
            os.replace(part, record)
        elif (found := record.read_text()) != text:
            raise ValueError(
                f'cache {self.folder} holds features of another backbone, {found}; this is {text}: '
                'choose another folder or remove it'
            )
        self._claimed = True

    def _file(self, meta: dict) -> Path:
        name = hashlib.sha256(os.path.abspath(meta['img_path']).encode()).hexdigest()
        return self.folder / f'{name[:32]}.pt'

    def _read(self, picture: str, meta: dict) -> list[Tensor] | None:
        if not meta.get('img_path'):
            raise ValueError('a cache names features by img_path, which this image comes without')
        if meta.get('flip'):
            raise ValueError(
                f'a cache needs a pipeline that gives each image one picture, and {meta["img_path"]} was '
                'flipped: set prob=0 in RandomFlip, or model.cache=None'
            )
        file = self._file(meta)
        if not file.exists():
            return None
        stored = torch.load(file, map_location='cpu', weights_only=True)
        if stored['picture'] != picture:
            raise ValueError(
                f'cache {self.folder} holds features of another picture of {meta["img_path"]}: the pipeline '
                'crops at random, or its size or normalisation has changed since'
            )
        return stored['features']

    def _write(self, picture: str, meta: dict, features: list[Tensor]) -> None:
        file = self._file(meta)
        part = _unfinished(file)
        torch.save(dict(picture=picture, features=[part.clone() for part in features]), part)
        os.replace(part, file)


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _unfinished(file: Path) -> Path:
    """Another name beside the file's, of this process: the last of several to finish wins."""
    return file.with_name(f'{file.name}.{os.getpid()}.part')
