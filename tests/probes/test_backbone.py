# SPDX-License-Identifier: Apache-2.0
"""The frozen backbone against a plain transformer, through every name its weights may come by."""

import json

import pytest
import torch

from carafe_plugin.probes.backbone import FrozenViT
from carafe_tools.vit_weights import convert, read_weights
from tests.probes.vit import SMALL, PlainViT, hugging_face
from tests.runtime.helpers import load_tool
from tests.torch_versions import needs_export


def converted(tmp_path, tensors, *options, suffix='.pth', name='out'):
    """What the tool makes of a file with these tensors."""
    source, out = tmp_path / f'in{suffix}', tmp_path / f'{name}.pth'
    torch.save(tensors, source)
    load_tool('convert_vit').main([str(source), '--out', str(out), *options])
    return out


def backbone(weights, rule='bicubic', **kwargs):
    arguments = torch.load(weights, weights_only=True)['meta']
    del arguments['source']
    return FrozenViT(weights=str(weights), position_rule=rule, **(arguments | kwargs))


def images(rows=6, columns=6, patch=4):
    return torch.randn(2, 3, rows * patch, columns * patch, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('layer_scale', [False, True], ids=['dino', 'dinov2'])
def test_equals_the_plain_transformer(tmp_path, layer_scale):
    plain = PlainViT(**SMALL, layer_scale=layer_scale)
    ours = backbone(converted(tmp_path, plain.state_dict()), output_cls_token=True)
    expected = plain(images())
    ((features, token),) = ours(images())
    torch.testing.assert_close((features, token), expected, rtol=1e-5, atol=1e-5)
    assert not features.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize('patch, side, layer_scale', [(16, 14, False), (14, 37, True)])
def test_equals_it_at_the_size_of_the_published_models(tmp_path, patch, side, layer_scale):
    plain = PlainViT(384, 12, patch, side, layer_scale)
    ours = backbone(converted(tmp_path, plain.state_dict()))
    picture = images(16, 32, patch)
    torch.testing.assert_close(ours(picture)[0], plain(picture, 'bicubic')[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('rule', ['bicubic', 'offset', 'antialias'])
def test_position_rules(tmp_path, rule):
    plain = PlainViT(**SMALL)
    weights = converted(tmp_path, plain.state_dict())
    for size in ((4, 9), (9, 4), (3, 3)):
        out = backbone(weights, rule)(images(*size))[0]
        torch.testing.assert_close(out, plain(images(*size), rule)[0], rtol=1e-5, atol=1e-5)
    others = [backbone(weights, other)(images(4, 9))[0] for other in ('bicubic', 'offset', 'antialias')]
    assert min((a - b).abs().max() for a, b in zip(others, others[1:] + others[:1], strict=True)) > 1e-2


def test_as_many_patches_in_another_grid_are_resized(tmp_path):
    """Where the stock class, which compares their number alone, takes the embeddings as they are."""
    plain = PlainViT(**SMALL)
    out = backbone(converted(tmp_path, plain.state_dict()))(images(4, 9))[0]
    torch.testing.assert_close(out, plain(images(4, 9), 'bicubic')[0], rtol=1e-5, atol=1e-5)


def test_the_first_blocks_alone(tmp_path):
    plain = PlainViT(**SMALL)
    ours = backbone(converted(tmp_path, plain.state_dict(), '--blocks', '2'))
    assert len(ours.layers) == 2
    torch.testing.assert_close(ours(images())[0], plain(images(), blocks=2)[0], rtol=1e-5, atol=1e-5)


def chunked(state):
    return {
        name.replace('blocks.', 'blocks.0.' if name.startswith('blocks.0') else 'blocks.1.'): tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: dict(teacher={f'backbone.{name}': t for name, t in state.items()}, epoch=3),
        lambda state: dict(model=dict(state, mask_token=torch.zeros(1, 64))),
        lambda state: dict(state, **{'head.weight': torch.zeros(10, 64), 'head.bias': torch.zeros(10)}),
        chunked,
        hugging_face,
        lambda state: {f'dinov2.{name}': t for name, t in hugging_face(state).items()},
    ],
    ids=['dino', 'dinov2', 'timm', 'chunks', 'hugging_face', 'hugging_face_prefix'],
)
def test_names(wrap, tmp_path):
    state = PlainViT(**SMALL).state_dict()
    torch.save(wrap(state), tmp_path / 'weights.bin')
    torch.testing.assert_close(convert(read_weights(tmp_path / 'weights.bin')), convert(state))


def test_names_of_the_older_hugging_face_model():
    state = PlainViT(**SMALL, layer_scale=False).state_dict()
    renamed = {}
    for name, tensor in hugging_face(state).items():
        for new, old in (
            ('.norm1.', '.layernorm_before.'),
            ('.norm2.', '.layernorm_after.'),
            ('.mlp.fc1.', '.intermediate.dense.'),
            ('.mlp.fc2.', '.output.dense.'),
        ):
            name = name.replace(new, old)
        renamed[f'vit.{name}'] = tensor
    torch.testing.assert_close(convert(renamed), convert(state))


def test_safetensors(tmp_path):
    state = PlainViT(**SMALL).state_dict()
    header, body = {'__metadata__': {'format': 'pt'}}, b''
    for name, tensor in state.items():
        content = tensor.numpy().tobytes()
        offsets = [len(body), len(body) + len(content)]
        header[name] = dict(dtype='F32', shape=list(tensor.shape), data_offsets=offsets)
        body += content
    text = json.dumps(header).encode()
    path = tmp_path / 'model.safetensors'
    path.write_bytes(len(text).to_bytes(8, 'little') + text + body)
    torch.testing.assert_close(read_weights(path), dict(state))


@needs_export
@pytest.mark.filterwarnings('ignore')  # what the exporter says about itself
def test_an_onnx_graph(tmp_path):
    """The exporter transposes and renumbers the weights of linear layers."""
    plain = PlainViT(**SMALL).eval()
    path = tmp_path / 'vit.onnx'
    torch.onnx.export(plain, (images(),), path, dynamo=False, do_constant_folding=True)
    torch.testing.assert_close(convert(read_weights(path)), convert(plain.state_dict()))


def test_embeddings_that_an_onnx_graph_cut_in_two(tmp_path):
    onnx = pytest.importorskip('onnx')
    state = PlainViT(**SMALL).state_dict()
    positions = state.pop('pos_embed')
    tensors = state | {'onnx::Concat_7': positions[:, :1], 'onnx::Reshape_9': positions[:, 1:]}
    values = [onnx.numpy_helper.from_array(t.numpy(), name) for name, t in tensors.items()]
    graph = onnx.helper.make_graph([], 'vit', [], [], values)
    onnx.save(onnx.helper.make_model(graph), tmp_path / 'vit.onnx')
    assert torch.equal(convert(read_weights(tmp_path / 'vit.onnx'))['pos_embed'], positions)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda state: state.pop('norm.bias'), 'no weights of a plain ViT: norm.bias is missing'),
        (lambda state: state.update(register_tokens=torch.zeros(1, 4, 64)), 'nothing here uses register_tok'),
        (lambda state: state.pop('cls_token'), 'a ViT has one cls_token, here are 0 among'),
    ],
)
def test_other_weights_are_refused_in_one_line(tmp_path, capsys, change, message):
    state = dict(PlainViT(**SMALL).state_dict())
    change(state)
    with pytest.raises(SystemExit):
        converted(tmp_path, state)
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('name, text', [('a.pth', b'x'), ('a.safetensors', b'x' * 20), ('a.onnx', b'x')])
def test_files_that_are_none(tmp_path, capsys, name, text):
    for path, message in ((tmp_path / name, 'holds no weights|no safetensors|no ONNX'), (tmp_path / 'b', '')):
        if message:
            path.write_bytes(text)
        with pytest.raises(SystemExit):
            load_tool('convert_vit').main([str(path), '--out', str(tmp_path / 'out')])
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and str(path) in lines[0]


def test_weights_of_another_vit(tmp_path):
    weights = converted(tmp_path, PlainViT(**SMALL).state_dict())
    with pytest.raises(ValueError, match=r'are of another ViT: 1 of its tensors differ, first pos_embed'):
        backbone(weights, img_size=32)
    with pytest.raises(ValueError, match=r'another ViT.*layers\.3.*absent there'):
        backbone(weights, num_layers=4)
    with pytest.raises(ValueError, match=r'weights nowhere\.pth do not exist: tools/convert_vit\.py'):
        FrozenViT(weights='nowhere.pth')
    with pytest.raises(ValueError, match='position_rule must be one of bicubic, offset, antialias'):
        backbone(weights, 'timm')


@pytest.mark.parametrize('token', [False, True])
def test_channel_norm(tmp_path, token):
    weights = converted(tmp_path, PlainViT(**SMALL).state_dict())
    plain, normed = (backbone(weights, output_cls_token=token, channel_norm=n)(images())[0] for n in (0, 1))
    if token:
        assert torch.equal(plain[1], normed[1])
        plain, normed = plain[0], normed[0]
    centred = plain - plain.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(normed, expected, rtol=1e-5, atol=1e-5)


def test_an_image_that_patches_do_not_fill(tmp_path):
    ours = backbone(converted(tmp_path, PlainViT(**SMALL).state_dict()))
    with pytest.raises(ValueError, match='multiples of patch_size=4, got 24 x 26'):
        ours(torch.zeros(1, 3, 24, 26))


def test_stays_frozen_and_keeps_its_weights(tmp_path):
    plain = PlainViT(**SMALL)
    ours = backbone(converted(tmp_path, plain.state_dict()), drop_rate=0.5)
    ours.train()
    ours.init_weights()
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())
    torch.testing.assert_close(ours(images())[0], plain(images())[0], rtol=1e-5, atol=1e-5)
