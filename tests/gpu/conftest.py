"""Tests that need a GPU: each compares it with the CPU, which the other tests are about."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
