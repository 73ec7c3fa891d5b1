# SPDX-License-Identifier: Apache-2.0
"""The operators against the float64 loop definition."""

import numpy as np
import pytest
import torch

from carafe_plugin.ops import carafe, carafe_softmax, reference
from tests import reference as oracle
from tests.reference import carafe_case
from tests.tolerances import OPERATOR, within

LAYOUTS = dict(
    contiguous=lambda x: x.contiguous(),
    channels_last=lambda x: x.contiguous(memory_format=torch.channels_last),
    sliced=lambda x: torch.nn.functional.pad(x, (1, 2, 2, 1, 1, 0))[:, 1:, 2:-1, 1:-2],
    transposed=lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
)


def test_oracle_equals_the_loops():
    for sizes in ((3, 2, 2), (5, 1, 3), (1, 4, 1)):
        features, _, masks, loops = carafe_case((2, 4, 3, 5), *sizes)
        output = oracle.reassemble(features, masks, *sizes)
        np.testing.assert_allclose(output, loops, atol=OPERATOR[torch.float64])


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', OPERATOR, ids=str)
@pytest.mark.parametrize('scale_factor', [1, 2, 3, 4])
@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7])
@pytest.mark.parametrize('shape, group_size', [((1, 4, 3, 5), 1), ((2, 4, 2, 3), 4), ((1, 4, 1, 1), 4)])
def test_matches_the_definition(shape, group_size, kernel_size, scale_factor, dtype, layout):
    sizes = (kernel_size, group_size, scale_factor)
    inputs = [torch.tensor(x).to(dtype) for x in carafe_case(shape, *sizes)[:3]]
    features, logits, masks = (x.double().numpy() for x in inputs)  # as the dtype holds them
    softmax = oracle.softmax(oracle.shuffle(logits, scale_factor), kernel_size, group_size)
    expected = [torch.tensor(oracle.reassemble(features, x, *sizes)) for x in (masks, softmax)]
    features, logits, masks = map(LAYOUTS[layout], inputs)
    outputs = carafe(features, masks, *sizes), carafe_softmax(features, logits, *sizes)
    for output, exact in zip(outputs, expected, strict=True):
        assert output.dtype == dtype
        torch.testing.assert_close(output.double(), exact, **within(OPERATOR[dtype], exact))


def test_expanded_features_and_masks():
    features, _, masks, expected = carafe_case((1, 4, 3, 5), 3, 1, 2)
    features, masks = (
        torch.tensor(features).expand(3, -1, -1, -1),
        torch.tensor(masks).expand(3, -1, -1, -1),
    )
    torch.testing.assert_close(carafe(features, masks, 3), torch.tensor(expected).expand(3, -1, -1, -1))


@pytest.mark.parametrize('kernel_size, group_size, scale_factor', [(3, 2, 2), (5, 1, 1), (1, 4, 3)])
def test_gradients(kernel_size, group_size, scale_factor):
    sizes = (kernel_size, group_size, scale_factor)
    features, logits, masks, _ = (
        torch.tensor(x, requires_grad=True) for x in carafe_case((1, 4, 2, 3), *sizes)
    )
    for function, other in ((carafe, masks), (carafe_softmax, logits)):
        assert torch.autograd.gradcheck(lambda x, w, f=function: f(x, w, *sizes), (features, other))
        assert torch.autograd.gradgradcheck(lambda x, w, f=function: f(x, w, *sizes), (features, other))


@pytest.mark.parametrize('layout', ['channels_last', 'sliced', 'transposed'])
def test_gradients_do_not_depend_on_the_layout(layout):
    features, logits, _, _ = (torch.tensor(x) for x in carafe_case((2, 4, 3, 5), 5, 2, 2))

    def gradients(change):
        leaves = [features.clone().requires_grad_(), logits.clone().requires_grad_()]
        output = carafe_softmax(*(change(x) for x in leaves), 5, 2, 2)
        (output * torch.arange(output.numel()).view_as(output)).sum().backward()
        return [x.grad for x in leaves]

    torch.testing.assert_close(gradients(LAYOUTS[layout]), gradients(LAYOUTS['contiguous']))


@pytest.mark.parametrize('function', [carafe, reference.carafe])
def test_16_bit_inputs_are_summed_in_float32(function):
    """A running float16 sum of 49 entries near 1/49 would be off by several rounding steps."""
    features, masks = (
        torch.ones(1, 1, 9, 9, dtype=torch.float16),
        torch.full((1, 49, 9, 9), 1 / 49, dtype=torch.float16),
    )
    exact = 49 * masks[0, 0, 0, 0].double()
    assert function(features, masks, 7, 1, 1)[0, 0, 4, 4] == exact.half()


@pytest.mark.parametrize('function', [carafe_softmax, reference.carafe_softmax])
def test_16_bit_logits_are_normalised_in_float32(function):
    """Features of 32 bits show it: nothing but the logits themselves is rounded to 16."""
    torch.manual_seed(0)
    features, logits = torch.randn(2, 4, 3, 5), torch.randn(2, 2 * 25 * 4, 3, 5, dtype=torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        output = function(features, logits, 5, 2, 2)
    masks = oracle.masks_from_logits(logits.double().numpy(), 5, 2, 2)
    exact = torch.tensor(oracle.carafe_loops(features.double().numpy(), masks, 5, 2, 2))
    torch.testing.assert_close(output.double(), exact, **within(OPERATOR[torch.float32], exact))


def test_border_is_zero_and_not_renormalised():
    """A uniform kernel on ones counts the neighbours inside the map."""
    output = carafe(torch.ones(1, 1, 4, 4), torch.full((1, 9, 8, 8), 1 / 9), 3)
    inside = torch.tensor([2, 2, 3, 3, 3, 3, 2, 2]) / 3
    torch.testing.assert_close(output[0, 0], inside[:, None] * inside)


def test_nan_weight_spreads_even_outside_the_map():
    """Out-of-range taps are taps on a zero: NaN * 0 is NaN, in every path."""
    masks = torch.zeros(1, 9, 4, 4)
    masks[0, 0, 0, 0] = torch.nan
    output = carafe(torch.ones(1, 1, 2, 2), masks, 3)
    assert output.isnan().nonzero().tolist() == [[0, 0, 0, 0]]


def test_empty_batch_keeps_the_graph():
    features = torch.rand(0, 4, 3, 5, requires_grad=True)
    weight = torch.rand(1, requires_grad=True)
    output = carafe_softmax(features, torch.rand(0, 100, 3, 5) * weight, 5)
    assert output.shape == (0, 4, 6, 10)
    output.sum().backward()
    assert features.grad.shape == features.shape and weight.grad == 0


def test_autocast_mixes_dtypes():
    features, logits = (torch.tensor(x) for x in carafe_case((2, 4, 3, 5), 5, 1, 2)[:2])
    features, logits = features.bfloat16(), logits.float()
    with torch.autocast('cpu', torch.bfloat16):
        output = carafe_softmax(features, logits, 5)
    softmax = oracle.softmax(oracle.shuffle(logits.double().numpy(), 2), 5, 1)
    exact = torch.tensor(oracle.reassemble(features.double().numpy(), softmax, 5, 1, 2))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), exact, **within(OPERATOR[torch.bfloat16], exact))


FEATURES, MASKS = torch.rand(2, 6, 4, 5), torch.rand(2, 25, 8, 10)


@pytest.mark.parametrize(
    'error, match, arguments',
    [
        (TypeError, 'features must be a tensor, got ndarray', (FEATURES.numpy(), MASKS, 5)),
        (TypeError, 'masks must be floating-point, got torch.int64', (FEATURES, MASKS.long(), 5)),
        (
            TypeError,
            'one dtype, got torch.float32 and torch.float64',
            (FEATURES, MASKS.double(), 5),
        ),
        (TypeError, 'kernel_size must be an int, got 5.0', (FEATURES, MASKS, 5.0)),
        (TypeError, 'scale_factor must be an int, got True', (FEATURES, MASKS, 5, 1, True)),
        (ValueError, 'kernel_size must be odd, got 4', (FEATURES, MASKS, 4)),
        (ValueError, 'group_size must be at least 1, got 0', (FEATURES, MASKS, 5, 0)),
        (ValueError, 'scale_factor must be at least 1, got 0', (FEATURES, MASKS, 5, 1, 0)),
        (
            ValueError,
            r'features must have 4 dimensions, got shape \(6, 4, 5\)',
            (FEATURES[0], MASKS, 5),
        ),
        (ValueError, 'divisible by group_size=4, got 6', (FEATURES, MASKS, 5, 4)),
        (
            ValueError,
            r'\(2, 25, 12, 15\) for features of shape \(2, 6, 4, 5\), got \(2, 25, 8, 10\)',
            (FEATURES, MASKS, 5, 1, 3),
        ),
        (ValueError, r'\(2, 9, 8, 10\)', (FEATURES, MASKS, 3)),
        (ValueError, 'on one device, got cpu and meta', (FEATURES, MASKS.to('meta'), 5)),
    ],
)
def test_bad_arguments(error, match, arguments):
    with pytest.raises(error, match=match):
        carafe(*arguments)


def test_bad_logits():
    with pytest.raises(
        ValueError, match=r'logits must have shape .* = \(2, 100, 4, 5\).*got \(2, 25, 8, 10\)'
    ):
        carafe_softmax(FEATURES, MASKS, 5)
