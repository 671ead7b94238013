"""The two convolution blocks against torch's own layers: forward and backward, one core.

Both make the same two blocks (convolution of width 3, ReLU, max-pooling by 2) of a batch of 32
embeddings, with the same weights; the results are compared before the clock starts.

    python -m bench.conv
"""

from __future__ import annotations

import time
from statistics import median

import torch
from torch import nn

from nver.heads import ConvTrunk

BATCH = 32
ROUNDS = 30


def twin(trunk: ConvTrunk) -> nn.Sequential:
    """Return torch's layers with the trunk's weights."""
    layers: list[nn.Module] = []
    for block in trunk.blocks:
        channels, filters = block.weight.shape[0] // 3, block.weight.shape[1]
        conv = nn.Conv1d(channels, filters, 3)
        with torch.no_grad():
            conv.weight.copy_(block.weight.view(3, channels, filters).permute(2, 1, 0))
            conv.bias.copy_(block.bias)
        layers += [conv, nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers)


def main() -> None:
    torch.set_num_threads(1)
    print("| dim | filters | torch ms | fused ms | ratio |")
    print("|---|---|---|---|---|")
    for dim, filters in ((384, (32, 64)), (384, (64, 128)), (512, (64, 128)), (1024, (64, 128))):
        trunk = ConvTrunk(dim, filters)
        theirs = twin(trunk)
        x = torch.randn(BATCH, dim)
        mine = trunk.maps
        expected = theirs(x.unsqueeze(1)).transpose(1, 2)
        torch.testing.assert_close(mine(x), expected, atol=1e-5, rtol=1e-4)
        gradients = [torch.randn_like(theirs(x.unsqueeze(1))), torch.randn_like(expected)]
        seconds: list[list[float]] = [[], []]
        for _ in range(ROUNDS):  # in turn, so that other work on the machine hits both alike
            for i, (layers, given) in enumerate(((theirs, x.unsqueeze(1)), (mine, x))):
                clock = time.perf_counter()
                layers(given).backward(gradients[i])
                seconds[i].append(time.perf_counter() - clock)
        slow, fast = (1000 * median(times[5:]) for times in seconds)
        print(f"| {dim} | {filters} | {slow:.1f} | {fast:.1f} | {slow / fast:.2f} |")


if __name__ == "__main__":
    main()
