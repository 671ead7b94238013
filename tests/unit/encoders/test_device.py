"""The precisions of encoders: convolutions that a processor gets wrong are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from nver.encoders.device import check_convolutions
from nver.errors import SettingsError


def weight(channels: int, kernel: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((8, channels, kernel), generator=generator).to(dtype)


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every half-precision convolution be wrong, as some are on some processors."""
    right = functional.conv1d

    def conv1d(values: torch.Tensor, *more: object, **options: object) -> torch.Tensor:
        found = right(values, *more, **options)
        return found.flip(-1) if values.dtype == torch.bfloat16 else found

    monkeypatch.setattr(functional, "conv1d", conv1d)


@pytest.mark.usefixtures("wrong")
def test_a_wrong_convolution_is_refused_with_what_to_do() -> None:
    message = (
        r"like those of 'beats' wrongly \(oneDNN .*, 4 input channels\)\. Leave dtype=bfloat16"
    )
    with pytest.raises(SettingsError, match=message):
        check_convolutions("beats", weight(4, 16))
    network = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(8, 8, 16, groups=2).bfloat16())
    with pytest.raises(SettingsError, match="4 input channels"):
        check_convolutions("speech", network)


@pytest.mark.usefixtures("wrong")
def test_other_precisions_and_wide_or_single_channels_are_not_tried() -> None:
    check_convolutions("beats", weight(4, 16, torch.float32), weight(48, 16), weight(1, 16))
    check_convolutions("beats", nn.Linear(2, 2).bfloat16())


@pytest.mark.parametrize("channels", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("kernel", [3, 16, 32])
def test_what_is_refused_here_is_what_is_wrong_here(channels: int, kernel: int) -> None:
    filters = weight(channels, kernel)
    values = torch.randn((1, channels, 60), generator=torch.Generator().manual_seed(2)).bfloat16()
    expected = functional.conv1d(values.double(), filters.double())
    off = (functional.conv1d(values, filters).double() - expected).abs().max() / expected.std()
    if off < 0.1:
        check_convolutions("beats", filters)
    else:
        with pytest.raises(SettingsError):
            check_convolutions("beats", filters)


def test_planes_are_tried_too() -> None:
    check_convolutions("clap", nn.Conv2d(3, 64, 14).bfloat16(), nn.Conv2d(2, 4, 3).bfloat16())
