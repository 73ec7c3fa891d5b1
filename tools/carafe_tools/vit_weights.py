# SPDX-License-Identifier: Apache-2.0
"""Weights of DINO and DINOv2, by whatever name they go, in those of MMSegmentation's VisionTransformer."""

import json
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from carafe_plugin.runtime.errors import UserError

# Hugging Face's names (Dinov2Model, ViTModel) in those of DINO's own code, which are timm's too.
_RENAMED = (
    (r'^embeddings\.cls_token$', 'cls_token'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^encoder\.layer\.', 'blocks.'),
    (r'\.attention\.attention\.', '.attn.'),
    (r'\.attention\.output\.dense\.', '.attn.proj.'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'^(blocks\.\d+)\.output\.dense\.', r'\1.mlp.fc2.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.layer_scale(\d)\.lambda1$', r'.ls\1.gamma'),
    (r'^layernorm\.', 'norm.'),
    (r'^blocks\.\d+\.(\d+)\.', r'blocks.\1.'),  # DINOv2's code may keep its blocks in chunks
)
# Parts of those models that no feature goes through.
_UNUSED = ('mask_token', 'embeddings.mask_token', 'head.', 'pooler.', 'fc_norm.')
_BLOCK = {
    'norm1': 'ln1',
    'norm2': 'ln2',
    'attn.proj': 'attn.attn.out_proj',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
}
_DTYPES = {'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of PyTorch (.pth, .pt, .bin), safetensors or ONNX.

    Raises:
        UserError: there is no such file, or none that can be read.
    """
    if not path.is_file():
        raise UserError(f'{path} does not exist')
    if path.suffix == '.onnx':
        return _read_onnx(path)
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    try:
        found = torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f'{path} holds no weights that torch reads safely: {error}') from error
    for key in ('state_dict', 'model', 'teacher'):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise UserError(f'{path} holds no state dict but a {type(found).__name__}')
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def convert(tensors: dict[str, Tensor], blocks: int | None = None) -> dict[str, Tensor]:
    """The same transformer in MMSegmentation's names, its LayerScale folded into the layers before it.

    Args:
        tensors: with the names of DINO's and DINOv2's own code, timm or Hugging Face, under any prefix.
        blocks: keep that many of the blocks and leave the final norm out; None keeps all.

    Raises:
        UserError: this is no such transformer, or one with parts that MMSegmentation's has not (registers,
            gated MLPs); the first tensor that does not fit is named.
    """
    named = _canonical(tensors)
    depth = 1 + max((int(name.split('.')[1]) for name in named if name.startswith('blocks.')), default=-1)
    if blocks is not None and not 1 <= blocks <= depth:
        raise UserError(f'--blocks must be 1 to {depth}, got {blocks}')
    out = {name: _take(named, name) for name in ('cls_token', 'pos_embed')}
    for kind in ('weight', 'bias'):
        out[f'patch_embed.projection.{kind}'] = _take(named, f'patch_embed.proj.{kind}')
    for index in range(depth):
        for name, tensor in _block(named, f'blocks.{index}').items():
            if blocks is None or index < blocks:
                out[f'layers.{index}.{name}'] = tensor
    for kind in ('weight', 'bias'):
        norm = _take(named, f'norm.{kind}')
        if blocks is None:
            out[f'ln1.{kind}'] = norm
    if named:
        raise UserError(f'these are no weights of a plain ViT: nothing here uses {sorted(named)[0]}')
    return {name: tensor.float().contiguous() for name, tensor in out.items()}


def architecture(state: dict[str, Tensor]) -> dict[str, object]:
    """Arguments of ``FrozenViT`` for what :func:`convert` returned; heads have 64 channels in DINO's."""
    width, _, patch, _ = state['patch_embed.projection.weight'].shape
    side = round((state['pos_embed'].shape[1] - 1) ** 0.5)
    return dict(
        img_size=patch * side,
        patch_size=patch,
        embed_dims=width,
        num_layers=1 + max(int(name.split('.')[1]) for name in state if name.startswith('layers.')),
        num_heads=width // 64,
        mlp_ratio=state['layers.0.ffn.layers.0.0.weight'].shape[0] // width,
        final_norm='ln1.weight' in state,
    )


def _canonical(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer's tensors under the names of DINO's own code."""
    tokens = [name for name in tensors if re.search(r'(^|\.)cls_token$', name)]
    if len(tokens) != 1:
        raise UserError(f'a ViT has one cls_token, here are {len(tokens)} among {len(tensors)} tensors')
    prefix = re.sub(r'(embeddings\.)?cls_token$', '', tokens[0])
    found = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if not name.startswith(prefix) or short.startswith(_UNUSED):
            continue
        for pattern, replacement in _RENAMED:
            short = re.sub(pattern, replacement, short)
        found[short] = tensor
    return found


def _block(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    out = {}
    for kind in ('weight', 'bias'):
        if f'{prefix}.attn.query.{kind}' in named:
            parts = [_take(named, f'{prefix}.attn.{part}.{kind}') for part in ('query', 'key', 'value')]
            out[f'attn.attn.in_proj_{kind}'] = torch.cat(parts)
        else:
            out[f'attn.attn.in_proj_{kind}'] = _take(named, f'{prefix}.attn.qkv.{kind}')
        for theirs, ours in _BLOCK.items():
            out[f'{ours}.{kind}'] = _take(named, f'{prefix}.{theirs}.{kind}')
    for scale, layer in (('ls1', 'attn.attn.out_proj'), ('ls2', 'ffn.layers.1')):
        gamma = named.pop(f'{prefix}.{scale}.gamma', None)
        if gamma is not None:
            out[f'{layer}.weight'] = gamma[:, None] * out[f'{layer}.weight']
            out[f'{layer}.bias'] = gamma * out[f'{layer}.bias']
    return out


def _take(named: dict[str, Tensor], name: str) -> Tensor:
    if name not in named:
        raise UserError(f'these are no weights of a plain ViT: {name} is missing')
    return named.pop(name)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """8 bytes with the size of a JSON header, the header, then the raw tensors that it places."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], 'little')
    try:
        header = json.loads(content[8 : 8 + size])
        body = bytearray(content[8 + size :])
        return {
            name: torch.frombuffer(
                body[slice(*entry['data_offsets'])], dtype=_DTYPES[entry['dtype']]
            ).reshape(entry['shape'])
            for name, entry in header.items()
            if name != '__metadata__' and entry['dtype'] in _DTYPES
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path} is no safetensors file') from error


def _read_onnx(path: Path) -> dict[str, Tensor]:
    """The initialisers under the names of the module that was exported.

    PyTorch's exporter folds the transposition of a linear layer into its weight and gives it a number for a
    name; the bias, added behind the product, still has the layer's. Embeddings that were cut in two, one
    token and the patches, have lost theirs too.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise UserError(f'{path} needs the extra onnx: pip install onnx') from error
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # whatever protobuf raises
        raise UserError(f'{path} is no ONNX graph') from error
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    weights = {node.output[0]: node.input[1] for node in graph.node if node.op_type == 'MatMul'}
    for node in graph.node:
        biases = [name for name in node.input if name in tensors and name.endswith('.bias')]
        products = [weights[name] for name in node.input if weights.get(name) in tensors]
        if node.op_type == 'Add' and biases and products:
            tensors[f'{biases[0].removesuffix(".bias")}.weight'] = tensors[products[0]].T
    unnamed = [name for name, t in tensors.items() if '::' in name and t.dim() == 3 and t.shape[0] == 1]
    halves = sorted((tensors[name] for name in unnamed), key=lambda t: t.shape[1])
    tokens = [name for name in tensors if name.endswith('cls_token')]
    if len(halves) == 2 and halves[0].shape[1] == 1 and len(tokens) == 1:
        prefix = tokens[0].removesuffix('cls_token')
        name = 'position_embeddings' if prefix.endswith('embeddings.') else 'pos_embed'
        tensors[prefix + name] = torch.cat(halves, dim=1)
    return {name: tensor for name, tensor in tensors.items() if '::' not in name}
