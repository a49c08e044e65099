"""Uncertainty as outputs of one graph: temperature, deep ensembles and Monte Carlo dropout of the head.

Several members answer, and what they say is spread out in three outputs: `probabilities`, the mean of each member's
softmax (of each label's sigmoid); `entropy`, that of this mean, in nats; `variance`, the population variance of the
members' probabilities (divided by their number). Sources: Guo et al., arXiv:1706.04599 (temperature);
Lakshminarayanan et al., arXiv:1612.01474 (ensembles); Gal and Ghahramani, arXiv:1506.02142 (dropout).

State-dict keys of the network stay as they are, but for an ensemble, whose members stand under `members.0.` and on.
The trap: log(0). Everything is computed from logarithms that stay finite in fp16, where a clamp at 1e-12 is zero.
"""

from typing import Any

import torch
from torch import Tensor, nn

MASKS = "dropout_masks"  # the buffer that holds them


class Ensemble(nn.Module):
    """Networks of one architecture, each giving logits [batch, ..., classes], side by side."""

    def __init__(self, members: list[nn.Module], temperature: float, multi_label: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.temperature, self.multi_label = temperature, multi_label

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities [batch, ..., classes], entropy [batch, ...] and variance [batch, ..., classes]."""
        logits = torch.stack([member(*inputs) for member in self.members])
        return spread(logits, self.temperature, self.multi_label)


def giving_logits(net: nn.Module, output: int, head: str = "") -> nn.Module:
    """Make `net` return nothing but its logits: what its submodule `head` gives, else its output of that number."""
    if head:
        reached: list[Tensor] = []

        def note(_: nn.Module, __: Any, given: Tensor) -> None:
            reached.append(given)

        net.get_submodule(head).register_forward_hook(note)
        net.register_forward_hook(lambda _, __, answer: reached.pop())  # noqa: ARG005 - a sigmoid of it
    else:
        net.register_forward_hook(lambda _, __, answer: answer[output] if isinstance(answer, tuple) else answer)
    return net


def with_temperature(net: nn.Module, temperature: float, output: int, head: str = "") -> nn.Module:
    """Divide the logits of `net` by the temperature: what `head` gives, else its output of that number."""

    def scaled(_: nn.Module, __: Any, answer: Any) -> Any:
        if not isinstance(answer, tuple):
            return answer / temperature
        return tuple(value / temperature if place == output else value for place, value in enumerate(answer))

    (net.get_submodule(head) if head else net).register_forward_hook(scaled)
    return net


def with_head_dropout(net: nn.Module, head: str, masks: Tensor, temperature: float, multi_label: bool) -> nn.Module:
    """Have a network that gives logits answer once for each of the masks [members, width] on what reaches its `head`.

    The body runs once: the members follow each other on the batch axis from the head on. A mask is over channels, the
    same for every sample and every place of one. Gives what an Ensemble does.
    """
    part = net.get_submodule(head)
    net.register_buffer(MASKS, masks)

    def repeated(_: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        places = given[0].ndim - 2  # beside batch and channels
        mask: Tensor = net.get_buffer(MASKS)
        shape = (len(mask), 1, *[1] * places, -1) if isinstance(part, nn.Linear) else (len(mask), 1, -1, *[1] * places)
        return (given[0].unsqueeze(0) * mask.reshape(shape)).flatten(0, 1)

    def gathered(_: nn.Module, __: Any, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        literal = [int(size) for size in logits.shape[1:]]  # no sizes computed in the graph
        return spread(logits.reshape(len(net.get_buffer(MASKS)), -1, *literal), temperature, multi_label)

    part.register_forward_pre_hook(repeated)
    net.register_forward_hook(gathered)
    return net


def draw_masks(members: int, width: int, rate: float, seed: int) -> Tensor:
    """Return masks [members, width] as training draws them: 0 at that rate, elsewhere 1 / (1 - rate)."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(members, width, generator=generator) >= rate).float() / (1 - rate)


def spread(logits: Tensor, temperature: float, multi_label: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Turn logits [members, batch, ..., classes] into probabilities, entropy (without the last axis) and variance.

    The entropy of labels is the sum of each one's, as if they were independent.
    """
    logits = logits / temperature
    if multi_label:
        each = torch.sigmoid(logits)
        mean = each.mean(0)
        terms = mean * _log_mean(_log_sigmoid(logits)) + (1 - mean) * _log_mean(_log_sigmoid(-logits))
    else:
        logs = torch.log_softmax(logits, -1)
        each = logs.exp()
        mean = each.mean(0)
        terms = mean * _log_mean(logs)
    return mean, -terms.sum(-1), (each - mean).square().mean(0)


def _log_mean(logs: Tensor) -> Tensor:
    """Return the logarithm of the mean over the first axis of what these are the logarithms of."""
    most = logs.amax(0, keepdim=True)
    return most.squeeze(0) + (logs - most).exp().mean(0).log()


def _log_sigmoid(logits: Tensor) -> Tensor:
    """Return log(sigmoid(x)) without an exponential that overflows."""
    return -torch.relu(-logits) - torch.log1p(torch.exp(-logits.abs()))
