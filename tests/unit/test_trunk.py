"""Two convolution blocks in compiled loops: rooms that members share, and how parameters lie."""

import math

import pytest
import torch

from nver.heads.trunk import loops_work, two_blocks

pytestmark = pytest.mark.skipif(not loops_work(torch.float32), reason="numba is not installed")


def _parameters(filters, filters_2, members=3):
    draw = torch.Generator().manual_seed(0)
    shapes = ((members, 3, filters), (members, filters))
    shapes += ((members, 3 * filters, filters_2), (members, filters_2))
    return [torch.randn(shape, generator=draw) for shape in shapes]


def _gradients(x, parameters):
    given = [part.requires_grad_() for part in parameters]
    out = two_blocks(x, *given)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), given)]


@pytest.mark.parametrize("filters", [(8, 16), (32, 64)])
def test_members_beside_one_that_diverged_have_their_own_gradients(filters):
    x, parameters = torch.randn(3, 5, 30), _parameters(*filters)
    expected = _gradients(x, [part.clone() for part in parameters])
    parameters[2][0] = math.nan
    for found, alone in zip(_gradients(x, parameters), expected, strict=True):
        torch.testing.assert_close(found[1:], alone[1:], atol=0, rtol=0)


@pytest.mark.parametrize("filters", [(8, 16), (32, 64)])
def test_parameters_may_lie_in_memory_as_they_like(filters):
    x, parameters = torch.randn(3, 5, 30), _parameters(*filters)
    turned = [part.transpose(0, -1).contiguous().transpose(0, -1) for part in parameters]
    assert not any(part.is_contiguous() for part in turned)
    for found, expected in zip(_gradients(x, turned), _gradients(x, parameters), strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_a_second_derivative_is_refused():
    weight, *others = _parameters(8, 16)
    out = two_blocks(torch.randn(3, 5, 30), weight.requires_grad_(), *others)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(out.sum(), weight, create_graph=True)
