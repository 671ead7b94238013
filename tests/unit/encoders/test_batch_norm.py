"""A folded batch norm computes what the convolution and its norm computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nver.encoders.batch_norm import folded


@pytest.mark.parametrize("bias", [True, False])
def test_folded_is_the_convolution_then_its_norm(bias: bool):
    generator = torch.Generator().manual_seed(0)
    convolution = torch.nn.Conv2d(3, 5, 3, bias=bias)
    norm = torch.nn.BatchNorm2d(5, eps=1e-3).eval()
    with torch.no_grad():
        for tensor in (*convolution.parameters(), *norm.parameters(), norm.running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        norm.running_var.copy_(0.1 + torch.rand(5, generator=generator))
        image = torch.randn(2, 3, 8, 9, generator=generator)
        expected = norm(convolution(image)).numpy()
    tensors = {f"conv.{name}": t.detach().numpy() for name, t in convolution.named_parameters()}
    tensors |= {f"bn.{name}": t.numpy() for name, t in norm.state_dict().items()}
    weight, offset = folded(tensors, "conv", "bn", 1e-3)
    ours = torch.nn.functional.conv2d(image, weight, offset).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
