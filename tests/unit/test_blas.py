"""Products by address, from torch's BLAS and from SciPy's."""

import ctypes
from itertools import product

import numpy as np
import pytest
import torch

from nver.scaling import blas
from nver.scaling.compiled import compiled

pytest.importorskip("numba")


@compiled
def _multiplied(function, one, a, b, out, sizes, add):
    at = blas.Matrix(a[0], a[1], a[2] == 1)
    by = blas.Matrix(b[0], b[1], b[2] == 1)
    blas.multiply(function, one, at, by, blas.Matrix(out[0], out[1], False), sizes, add)


def _part(generator, rows, columns, turned, dtype):
    """Return a matrix that lies inside of a wider one, and what a loop is told of it."""
    lies = (columns, rows) if turned else (rows, columns)
    whole = generator.random((lies[0], lies[1] + 3)).astype(dtype)
    part = whole[:, 1 : lies[1] + 1]
    return (part.T if turned else part), (part.ctypes.data, whole.shape[1], int(turned)), whole


@pytest.fixture(params=["torch", "scipy"])
def addresses(request, monkeypatch):
    blas.product_address.cache_clear()
    if request.param == "scipy":

        def missing(path):
            raise OSError(path)

        monkeypatch.setattr(ctypes, "CDLL", missing)
    yield blas.product_address
    blas.product_address.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_parts_of_matrices_are_multiplied_as_numpy_does(addresses, dtype):
    generator = np.random.default_rng(0)
    kind = np.dtype(str(dtype).removeprefix("torch."))
    for (rows, columns, inner), a_turned, b_turned, add in product(
        [(1, 1, 1), (5, 33, 7), (40, 16, 130)], (False, True), (False, True), (0, 1)
    ):
        a, at, _a = _part(generator, rows, inner, a_turned, kind)
        b, by, _b = _part(generator, inner, columns, b_turned, kind)
        out, to, around = _part(generator, rows, columns, False, kind)
        expected, untouched = a @ b + add * out, around[:, [0, -2, -1]].copy()
        sizes = (rows, columns, inner)
        _multiplied(addresses(dtype), kind.type(1), at, by, to[:2], sizes, kind.type(add))
        np.testing.assert_allclose(out, expected, rtol=1e-5 if kind == np.float32 else 1e-12)
        np.testing.assert_array_equal(around[:, [0, -2, -1]], untouched)
