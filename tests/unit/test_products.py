"""Products of stacked matrices: on a CPU torch's, on a GPU a program of our own."""

from __future__ import annotations

import os

import pytest
import torch

from nver.errors import SettingsError
from nver.heads import products

SHAPES = [(3, 120, 50, 32), (1, 5, 1500, 7), (2, 70, 2048, 33), (2, 1, 1, 1), (0, 3, 4, 5)]


def _matrices(members, rows, inner, columns):
    """Return a and b as they come: one transposed, and the room for the outcome a part of more."""
    generator = torch.Generator().manual_seed(rows)
    a = torch.randn(members, inner, rows, generator=generator).mT
    b = torch.randn(members, columns, inner, generator=generator).mT
    return a, b, torch.zeros(members, rows, 2 * columns)[:, :, columns:]


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_products(shape):
    a, b, out = _matrices(*shape)
    expected = a.double() @ b.double()
    torch.testing.assert_close(products.multiply(a, b).double(), expected, atol=1e-4, rtol=1e-4)
    products.multiply(a, b, out)
    products.accumulate(out, a, b)
    torch.testing.assert_close(out.double(), 2 * expected, atol=1e-4, rtol=1e-4)
    more = products.multiply_add(out, a, b)
    torch.testing.assert_close(more.double(), 3 * expected, atol=1e-4, rtol=1e-4)


def test_a_product_has_its_derivatives():
    a, b = (torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(products._Product.apply, (a, b))
    torch.testing.assert_close(products.product(a, b), a @ b)
    torch.testing.assert_close(products.dots(a[:, 0], b[:, 0]), (a * b)[:, 0].sum(-1))
    torch.testing.assert_close(products.sums(a), a.sum(1))


@pytest.mark.skipif("TRITON_INTERPRET" not in os.environ, reason="run by the test after it")
def test_the_program_is_the_product():
    pytest.importorskip("triton")
    for shape in SHAPES:
        a, b, out = _matrices(*shape)
        expected = a.double() @ b.double()
        for times in (1, 2):
            products._launch(a, b, out, add=times > 1)
            torch.testing.assert_close(out.double(), times * expected, atol=1e-4, rtol=1e-4)
        summed = products._launch(
            a.new_ones(1).expand(len(a), 1, a.shape[1]),
            a,
            a.new_empty(len(a), 1, a.shape[2]),
            add=False,
        )
        torch.testing.assert_close(summed.squeeze(1), products.sums(a), atol=1e-4, rtol=1e-4)
    with pytest.raises(SettingsError, match="that can be multiplied"):
        products._launch(torch.ones(1, 2, 3), torch.ones(1, 4, 2), torch.ones(1, 2, 2), add=False)


@pytest.mark.slow
def test_the_program_is_the_product_in_tritons_interpreter(in_tritons_interpreter):
    in_tritons_interpreter(test_the_program_is_the_product)
