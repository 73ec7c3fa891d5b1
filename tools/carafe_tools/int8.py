# SPDX-License-Identifier: Apache-2.0
"""Static int8 of a model's convolutions by PyTorch's PT2E flow, in torchao; CARAFE stays in float."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e import HistogramObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

from carafe_plugin.ops.onnx_form import onnx_operators

INPUTS = QuantizationSpec(
    dtype=torch.uint8,
    quant_min=0,
    quant_max=255,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=HistogramObserver,
)
WEIGHTS = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelMinMaxObserver,
)


class Convolutions(Quantizer):
    """Input and weights of every convolution in 8 bits, nothing else.

    torchao's ``X86InductorQuantizer`` (0.18) refuses these models: "Input partition has more than one output
    node".
    """

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        for node in model.graph.nodes:
            if node.target is torch.ops.aten.conv2d.default:
                specs = {node.args[0]: INPUTS, node.args[1]: WEIGHTS}
                node.meta['quantization_annotation'] = QuantizationAnnotation(specs, _annotated=True)
        return model

    def validate(self, model: torch.fx.GraphModule) -> None:
        pass


def quantise(module: nn.Module, images: Sequence[Tensor]) -> torch.fx.GraphModule:
    """A module of one size of images with its convolutions in int8, in operators that ONNX has.

    Args:
        module: in eval mode.
        images: what the ranges of values are taken from, one call each.
    """
    with torch.no_grad():
        with onnx_operators():
            graph = torch.export.export(module, (images[0],)).module()
        observed = prepare_pt2e(graph, Convolutions())
        for image in images:
            observed(image)
        return convert_pt2e(observed)
