"""The one training loop: many networks of one shape at once, each as if it were alone.

The members of a pack (folds and seeds of one system) are one stacked network. Every member has its
own clips, order, masks, noise, learning rate, step count and early stopping, so that it ends with
the weights that it would have alone, up to rounding. One that has finished leaves the stack and is
handed over at once (`finishing`), and the others go on without it.

On a CPU a pack is small, because its weights and moments should stay in the cache; on a GPU it is
as large as memory allows (`pack_size`). Nothing waits for the device within an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nver.errors import SettingsError
from nver.heads import Batch
from nver.heads.products import dots
from nver.training import stack
from nver.training.batches import Clips, Table
from nver.training.held_out import validation_split
from nver.training.history import History
from nver.training.optimiser import optimiser
from nver.training.randomness import Draws, order_generator
from nver.training.settings import TrainingSettings, batches, largest_batch

CACHE = 48 * 2**20
"""Bytes of weights, gradients and moments that a pack may have on a CPU (bench/training.py)."""
BYTES_PER_PARAMETER = 16

Data = tuple[Float[Tensor, "_ columns"], Int[Tensor, " _"]]


def pack_size(device: torch.device | str, parameters: int) -> int:
    """Return how many members are trained at once.

    Parameters
    ----------
    device : torch.device or str
    parameters : int
        Of one member.
    """
    state = BYTES_PER_PARAMETER * max(parameters, 1)
    if torch.device(device).type == "cpu":
        return max(1, CACHE // state)
    free, _ = torch.cuda.mem_get_info(device)
    # Half of what is free; as much again as the state for activations, and room for inputs.
    return max(1, int(free / 2) // (2 * state + 32 * 2**20))


@dataclass
class _Member:
    """Everything that one training owns beside its slice of the stack."""

    number: int
    network: nn.Module
    settings: TrainingSettings
    order: torch.Generator
    kept: Int[Tensor, " kept"]
    held: Int[Tensor, " held"]
    note: str
    steps: int
    training_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, Tensor] | None = None

    def batches(self) -> list[Tensor]:
        """Return an epoch's batches, in a new order."""
        order = torch.randperm(len(self.kept), generator=self.order)
        return batches(self.kept[order], self.settings.batch_size)

    def rate(self, epoch: int, step: int) -> float | None:
        """Return the learning rate of a step, or None if there is no such step in an epoch."""
        if step >= self.steps:
            return None
        return learning_rate(self.settings, epoch + step / self.steps)

    def judge(self, loss: float) -> bool:
        """Note an epoch's validation loss, and return whether it is the best."""
        best = not self.validation_loss or loss < self.validation_loss[self.best_epoch]
        self.validation_loss.append(loss)
        if best:
            self.best_epoch = len(self.validation_loss) - 1
        return best

    def finished(self, epoch: int) -> bool:
        """Return whether this was its last epoch."""
        waited = len(self.validation_loss) - 1 - self.best_epoch
        return epoch + 1 >= self.settings.epochs or (
            bool(self.validation_loss) and waited >= self.settings.patience
        )

    def history(self) -> History:
        """Return what happened."""
        best = self.best_epoch if self.validation_loss else len(self.training_loss) - 1
        return History(tuple(self.training_loss), tuple(self.validation_loss), best, self.note)


def learning_rate(settings: TrainingSettings, epoch: float) -> float:
    """Return the learning rate, falling along half a cosine; `epoch` counts what is done before."""
    if not settings.cosine:
        return settings.learning_rate
    return settings.learning_rate * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2


def train(
    model: nn.Module,
    X: Float[Tensor, "clips columns"],
    y: Int[Tensor, " clips"],
    settings: TrainingSettings,
    *,
    seed: int,
    groups: Int[Tensor, " clips"] | None = None,
) -> History:
    """Train one network in place: `train_members` with one member."""
    return train_members([model], [(X, y)], settings, seeds=[seed], groups=[groups])[0]


def train_members(
    networks: Sequence[nn.Module],
    data: Sequence[Data],
    settings: TrainingSettings,
    *,
    seeds: Sequence[int],
    groups: Sequence[Int[Tensor, " _"] | None] | None = None,
    device: torch.device | str = "cpu",
    at_once: int | None = None,
) -> list[History]:
    """Train networks of one shape in place, and leave them with their best weights.

    The arguments are those of `finishing`.

    Returns
    -------
    list of History
        In the order of `networks`.

    Raises
    ------
    SettingsError
        As `finishing`.
    """
    told = dict(
        finishing(
            networks, data, settings, seeds=seeds, groups=groups, device=device, at_once=at_once
        )
    )
    return [told[number] for number in range(len(networks))]


def finishing(
    networks: Sequence[nn.Module],
    data: Sequence[Data],
    settings: TrainingSettings,
    *,
    seeds: Sequence[int],
    groups: Sequence[Int[Tensor, " _"] | None] | None = None,
    device: torch.device | str = "cpu",
    at_once: int | None = None,
) -> Iterator[tuple[int, History]]:
    """Train networks of one shape in place, and yield each as it finishes.

    Whoever is given a member may predict with it and save it: the others wait meanwhile. A network
    that is not yielded yet is not trained.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        Each maps X [clips, columns] and a `nver.heads.Batch` to logits [clips, classes], with
        layers that take a leading axis of members (those of `nver.heads` do).
    data : sequence of (X, y)
        Each member's inputs, float32 [clips, columns], taken as standardised, and class numbers.
        Members that share an X may be given the same tensor: it is held once.
    settings : TrainingSettings
        The recipe of all.
    seeds : sequence of int
        Of each member's held-out tenth, order of clips, dropout masks and input noise.
    groups : sequence of (int [clips] or None), optional
        Speaker numbers; the clips held out for early stopping are those of whole speakers.
    device : torch.device or str
        Where the training runs; the networks stay where they are.
    at_once : int, optional
        Members per pack; None is `pack_size`. It changes no result beyond rounding.

    Yields
    ------
    number : int
        Place in `networks`; the network has its best weights, on the CPU.
    history : History

    Raises
    ------
    SettingsError
        If the numbers of networks, data, seeds and groups differ, or the networks do in shape.
    """
    groups = [None] * len(networks) if groups is None else groups
    if not len(networks) == len(data) == len(seeds) == len(groups):
        raise SettingsError(
            f"Expected data, a seed and groups for each of {len(networks)} networks, "
            f"got {len(data)}, {len(seeds)} and {len(groups)}."
        )
    members = [
        _member(i, network, data[i][1], groups[i], settings, seeds[i])
        for i, network in enumerate(networks)
    ]
    # Neighbours take about as many steps, so that few wait for others.
    members.sort(key=lambda member: member.steps)
    place = torch.device(device)
    for part in _packs(members, at_once, place):
        pack = _Pack(
            part, [data[m.number] for m in part], [seeds[m.number] for m in part], settings, place
        )
        for member in pack.run():
            yield member.number, member.history()


def _packs(
    members: Sequence[_Member], at_once: int | None, device: torch.device
) -> list[list[_Member]]:
    """Cut the members into packs of about equal size."""
    if not members:
        return []
    if at_once is None:
        at_once = pack_size(device, sum(p.numel() for p in members[0].network.parameters()))
    count = -(-len(members) // at_once)
    edges = [len(members) * i // count for i in range(count + 1)]
    return [list(members[a:b]) for a, b in pairwise(edges)]


def _member(
    number: int,
    network: nn.Module,
    y: Tensor,
    groups: Tensor | None,
    settings: TrainingSettings,
    seed: int,
) -> _Member:
    order = order_generator(seed)
    split = validation_split(y, groups, settings.validation, order) if settings.patience else None
    if split is None:
        split = torch.arange(len(y)), torch.arange(0)
        note = "not asked for" if not settings.patience else "no speaker or class can be held out"
    else:
        note = ""
    own = settings.for_clips(len(split[0]))
    steps = len(batches(split[0], own.batch_size))
    return _Member(number, network, own, order, *split, note, steps)


class _Pack:
    """Members that are trained side by side."""

    def __init__(
        self,
        members: Sequence[_Member],
        data: Sequence[Data],
        seeds: Sequence[int],
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.members = list(members)
        self.settings = settings
        self.device = device
        _keep_freed_memory()
        self.clips = Clips([X for X, _ in data], [y for _, y in data], device)
        self.network = stack.stack([member.network for member in members], device)
        self.optimiser = optimiser(list(self.network.parameters()), settings.weight_decay)
        self.draws = Draws(self.network, seeds, settings.input_noise, device)
        self.held = self._held()

    def run(self) -> Iterator[_Member]:
        """Train until every member has finished, and yield each then."""
        epoch = 0
        while self.members:
            self._train(epoch)
            if self.held.counts:
                self._validate()
            yield from self._release([member.finished(epoch) for member in self.members])
            epoch += 1

    def _held(self) -> Table:
        """Return the held-out clips of every member, in batches as in training."""
        size = self.settings.batch_size
        own = [batches(m.held, size) if len(m.held) else [] for m in self.members]
        return self.clips.table(own, largest_batch(size))

    def _train(self, epoch: int) -> None:
        """Take one optimiser step per batch."""
        self.network.train()
        own = [member.batches() for member in self.members]
        table = self.clips.table(own, largest_batch(self.settings.batch_size))
        steps = range(len(table.counts))
        self.draws.plan(table.counts, [table.width(step) for step in steps], self.clips.columns)
        self.optimiser.plan([[m.rate(epoch, step) for m in self.members] for step in steps])
        total = torch.zeros(len(self.members), device=self.device)
        for step in steps:
            inputs = self.clips.gather(table, step)
            self.draws.draw()
            self.draws.add_noise(inputs)
            logits = self.network(inputs, Batch(table.absent(step), self.draws.bits))
            loss = _losses(logits, table, step, self.settings.label_smoothing)
            loss.sum().backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            total.addcmul_(loss.detach(), table.sizes[step])
        for member, summed in zip(self.members, total.tolist(), strict=True):
            member.training_loss.append(summed / len(member.kept))

    @torch.no_grad()
    def _validate(self) -> None:
        """Judge every member that holds clips out, and keep the weights of its best epoch."""
        self.network.eval()
        total = torch.zeros(len(self.members), device=self.device)
        for step in range(len(self.held.counts)):
            inputs = self.clips.gather(self.held, step)
            logits = self.network(inputs, Batch(self.held.absent(step)))
            total.addcmul_(_losses(logits, self.held, step, 0.0), self.held.sizes[step])
        for m, (member, summed) in enumerate(zip(self.members, total.tolist(), strict=True)):
            if len(member.held) and member.judge(summed / len(member.held)):
                state = stack.member_state(self.network, m)
                member.best_state = {name: value.clone() for name, value in state.items()}

    @torch.no_grad()
    def _release(self, finished: Sequence[bool]) -> list[_Member]:
        """Write the weights of members that have finished, and go on without them."""
        done = [m for m, ended in enumerate(finished) if ended]
        if not done:
            return []
        released = [self.members[m] for m in done]
        states = stack.member_states(self.network, done)
        for member, last in zip(released, states, strict=True):
            member.network.load_state_dict(member.best_state or last)
            member.network.eval()
        left = [m for m, ended in enumerate(finished) if not ended]
        if left and len(left) < len(self.members):
            self.members = [self.members[m] for m in left]
            stack.keep(self.network, left)
            self.optimiser.keep(left, list(self.network.parameters()))
            self.clips.keep(left)
            self.draws.keep(left)
            self.held = self._held()
        elif not left:
            self.members = []
        return released


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, up to 64 MiB.

    By default glibc hands large gradients back to the system and asks for them again in every step:
    with convolutions a tenth of the time. Its limit follows the largest block freed so far.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _losses(logits: Tensor, table: Table, step: int, smoothing: float) -> Float[Tensor, " members"]:
    """Return the mean cross-entropy of every member's batch; 0 for a passive member."""
    shape = logits.shape[:2]
    labels = table.labels[step, :, : shape[1]]
    each = cross_entropy(
        logits.flatten(0, 1), labels.reshape(-1), reduction="none", label_smoothing=smoothing
    )
    return dots(each.view(shape), table.weights[step, :, : shape[1]])
