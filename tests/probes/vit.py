# SPDX-License-Identifier: Apache-2.0
"""A vision transformer in plain torch, with the tensor names of DINO's and DINOv2's own code."""

import math
import re

import torch
import torch.nn.functional as F
from torch import nn

SMALL = dict(width=64, depth=3, patch=4, side=6)  # one head of 64 channels


class Block(nn.Module):
    def __init__(self, width, layer_scale):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict(dict(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)))
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)))
        if layer_scale:
            self.ls1, self.ls2 = (
                nn.ParameterDict(dict(gamma=nn.Parameter(torch.rand(width)))) for _ in range(2)
            )

    def forward(self, x):
        q, k, v = self.attn['qkv'](self.norm1(x)).unflatten(2, (3, -1, 64)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / math.sqrt(64)).softmax(-1)
        y = self.attn['proj']((weights @ v).transpose(1, 2).flatten(2))
        x = x + (y * self.ls1['gamma'] if hasattr(self, 'ls1') else y)
        y = self.mlp['fc2'](F.gelu(self.mlp['fc1'](self.norm2(x))))
        return x + (y * self.ls2['gamma'] if hasattr(self, 'ls2') else y)


class PlainViT(nn.Module):
    """Random weights, large enough that every term counts; position embeddings of ``side`` x ``side``."""

    def __init__(self, width, depth, patch, side, layer_scale=True, seed=0):
        torch.manual_seed(seed)
        super().__init__()
        self.patch, self.side = patch, side
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + side**2, width))
        self.patch_embed = nn.ModuleDict(dict(proj=nn.Conv2d(3, width, patch, patch)))
        self.blocks = nn.ModuleList(Block(width, layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for p in self.parameters():
            nn.init.normal_(p, std=0.1 if p.dim() == 2 else 0.5)

    def positions(self, rows, columns, rule):
        grid = self.pos_embed[:, 1:].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        if rule == 'offset':
            factor = ((rows + 0.1) / self.side, (columns + 0.1) / self.side)
            grid = F.interpolate(grid, scale_factor=factor, mode='bicubic')
        else:
            antialias = rule == 'antialias'
            grid = F.interpolate(grid, size=(rows, columns), mode='bicubic', antialias=antialias)
        return torch.cat((self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)), 1)

    def forward(self, images, rule=None, blocks=None):
        """The map (N, C, H/p, W/p) and the class token; ``blocks`` stops early, before the final norm."""
        x = self.patch_embed['proj'](images)
        size = x.shape[2:]
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), 1)
        x = x + (self.pos_embed if rule is None else self.positions(*size, rule))
        for block in self.blocks[:blocks]:
            x = block(x)
        if blocks is None:
            x = self.norm(x)
        return x[:, 1:].transpose(1, 2).unflatten(2, size), x[:, 0]


def hugging_face(state):
    """The names of Dinov2Model: queries, keys and values apart."""
    out = {}
    for name, tensor in state.items():
        for old, new in (
            (r'^cls_token$', 'embeddings.cls_token'),
            (r'^pos_embed$', 'embeddings.position_embeddings'),
            (r'^patch_embed\.proj', 'embeddings.patch_embeddings.projection'),
            (r'^norm\.', 'layernorm.'),
            (r'^blocks\.', 'encoder.layer.'),
            (r'attn\.proj', 'attention.output.dense'),
            (r'ls(\d)\.gamma', r'layer_scale\1.lambda1'),
        ):
            name = re.sub(old, new, name)
        if 'attn.qkv' not in name:
            out[name] = tensor
            continue
        for part, third in zip(('query', 'key', 'value'), tensor.chunk(3), strict=True):
            out[name.replace('attn.qkv', f'attention.attention.{part}')] = third
    return out
