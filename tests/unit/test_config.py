from __future__ import annotations

import json
from pathlib import Path

import pytest

from nver.config import EncoderChoice, Settings, demo_settings
from nver.errors import SettingsError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spectral", EncoderChoice("spectral")),
        ("byol-s=/w/byols_512", EncoderChoice("byol-s", "/w/byols_512")),
        (
            "speech=org/model,layer=9,pooling=mean+std,alias=wavlm",
            EncoderChoice(
                "speech", "org/model", {"layer": 9, "pooling": "mean+std", "alias": "wavlm"}
            ),
        ),
        ("byol-s,mean=-6.5", EncoderChoice("byol-s", None, {"mean": -6.5})),
    ],
)
def test_an_encoder_is_read_from_text(text: str, expected: EncoderChoice) -> None:
    assert EncoderChoice.parse(text) == expected


def test_an_option_without_a_value_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Expected -e NAME.*, got 'layer' in 'speech=x,layer'"):
        EncoderChoice.parse("speech=x,layer")


def test_an_option_that_the_encoder_does_not_take_is_refused() -> None:
    with pytest.raises(SettingsError, match="Encoder 'byol-s' takes checkpoint, mean, std, alias"):
        EncoderChoice.parse("byol-s,layer=3").load()


def test_an_unknown_encoder_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'spectral'"):
        EncoderChoice.parse("spectrl").load()


@pytest.mark.parametrize("wrong", [{"encoders": ()}, {"k": 1}, {"seeds": 0}, {"tune": 1}])
def test_settings_that_cannot_run_are_refused(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=r"Expected .*"):
        Settings(**({"corpus": "synthetic", "encoders": ("spectral",)} | wrong))


def test_settings_are_plain_json() -> None:
    settings = Settings("vivae", ("spectral",), root=Path("data"))
    told = json.loads(json.dumps(settings.to_dict()))
    assert told["root"] == "data"
    assert told["encoders"] == [{"name": "spectral", "checkpoint": None, "options": {}}]
    assert demo_settings().corpus == "synthetic"
