"""Networks of one shape as one network whose parameters have a leading axis of members."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nver.errors import SettingsError


def stack(networks: Sequence[nn.Module], device: torch.device) -> nn.Module:
    """Return the networks as one on `device`; they themselves are left as they are.

    Parameters and lasting buffers get a leading axis of members, in the order given.

    Raises
    ------
    SettingsError
        If the networks differ in more than their numbers.
    """
    states = [network.state_dict() for network in networks]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise SettingsError(
            "Networks that are trained at once must have the same layers and sizes; "
            "train others apart."
        )
    whole = copy.deepcopy(networks[0]).to(device)
    _assign(whole, {name: _stacked([s[name] for s in states], device) for name in states[0]})
    return whole


def keep(whole: nn.Module, members: Sequence[int]) -> None:
    """Leave these members in the stack."""
    state = whole.state_dict()
    _assign(whole, {name: value[list(members)] for name, value in state.items()})


def member_state(whole: nn.Module, member: int) -> dict[str, Tensor]:
    """Return the parameters and lasting buffers of one member, as views of the stack."""
    return {name: value[member] for name, value in whole.state_dict().items()}


def member_states(whole: nn.Module, members: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return those of several members on the CPU, fetched together."""
    chosen = torch.tensor(members, dtype=torch.int64)
    fetched = {n: v[chosen.to(v.device)].cpu() for n, v in whole.state_dict().items()}
    return [{name: value[i] for name, value in fetched.items()} for i in range(len(chosen))]


def _stacked(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the tensors as one on the device; there is no second copy where they come from."""
    whole = parts[0].new_empty(len(parts), *parts[0].shape, device=device)
    for place, part in zip(whole, parts, strict=True):
        place.copy_(part)
    return whole


def _assign(whole: nn.Module, state: dict[str, Tensor]) -> None:
    """Put tensors in the place of parameters and buffers, whatever their shapes."""
    for name, value in state.items():
        path, _, last = name.rpartition(".")
        module = whole.get_submodule(path)
        if last in module._parameters:
            setattr(module, last, nn.Parameter(value))
        else:
            setattr(module, last, value)
