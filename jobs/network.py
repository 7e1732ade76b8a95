"""The masked-span Transformer (torch): what a span's values would be, told from the rest of its trace.

Two streams: every span is a query, made of what is known of it alone, and two memories, its cause part and its
outcome part, which hold its values. Queries attend to memories through several layers while memories stay as
they are. So no value reaches its own query by way of others, and one pass predicts every span with itself
masked: what would take a standard encoder one pass for each span.

References: two-stream attention, Yang et al. 2019 (XLNet), arXiv:1906.08237; relation biases, Shaw et al.
2018, arXiv:1803.02155.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from udfs.pure import tokens as t

WIDTH, HEADS, LAYERS = 48, 4, 2
# What is hidden has the least score. No score counts as further than FLOOR below the best: e^-80 of a weight is nothing
# to a float, and much less would be a subnormal number, with which processors reckon a hundred times slower.
MASKED, FLOOR = -1e4, 80.0


def _mlp(inputs: int, outputs: int, hidden: int = 2 * WIDTH) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


class Layer(nn.Module):
    """Cross-attention of queries to memories, biased by relation, and a feed-forward step."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm_after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.forward_step = _mlp(WIDTH, WIDTH)
        self.cause_bias = nn.Embedding(t.RELATIONS, HEADS)
        self.outcome_bias = nn.Embedding(t.RELATIONS, HEADS)

    def forward(self, x: Tensor, memory: Tensor, row: Tensor) -> Tensor:
        """x: (batch, spans, width); memory: (batch, 1 + 2 spans, width); row: (batch, spans, 1 + 2 spans) of biases"""
        batch, spans, _ = x.shape
        size = WIDTH // HEADS
        query = self.query(self.norm(x)).reshape(batch, spans, HEADS, size).transpose(1, 2)
        key, value = self.key_value(memory).chunk(2, dim=-1)
        key = key.reshape(batch, 2 * spans + 1, HEADS, size).transpose(1, 2)
        value = value.reshape(batch, 2 * spans + 1, HEADS, size).transpose(1, 2)
        bias = functional.embedding(row, self.biases()).permute(0, 3, 1, 2)  # (batch, heads, spans, 1 + 2 spans)
        score = query @ key.transpose(2, 3) / size**0.5 + bias
        attention = torch.softmax(torch.maximum(score, score.amax(dim=-1, keepdim=True) - FLOOR), dim=-1)
        read = (attention @ value).transpose(1, 2).reshape(batch, spans, WIDTH)
        x = x + self.out(read)
        return x + self.forward_step(self.norm_after(x))

    def biases(self) -> Tensor:
        """A row for the empty memory, for each relation to a cause part, and for each to an outcome part.

        A relation costs one look-up, a hidden one too. Constant once trained.  # (1 + 2 relations, heads)
        """
        hidden = torch.full((1, HEADS), MASKED)
        parts = [torch.zeros(1, HEADS)]
        for table in (self.cause_bias.weight, self.outcome_bias.weight):
            parts += hidden, table[t.HIDDEN + 1 :]
        return torch.cat(parts)


class MaskedSpanTransformer(nn.Module):
    """Inputs as tokens.Batch; outputs mean and scale of the reals, chance of the bits."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        known = len(t.KNOWN)
        self.name = nn.Embedding(1 + vocabulary, WIDTH)
        nn.init.zeros_(self.name.weight)
        self.known = _mlp(known, WIDTH)
        self.cause = _mlp(WIDTH + 2 * len(t.CAUSES), WIDTH)
        self.outcome = _mlp(WIDTH + 2 * len(t.OUTCOMES), WIDTH)
        self.nothing = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.mean, self.log_scale = nn.Linear(WIDTH, len(t.REALS)), nn.Linear(WIDTH, len(t.REALS))
        self.repeats = _mlp(WIDTH + len(t.EXCUSES), len(t.REPEAT_LEVELS))
        self.errors = _mlp(WIDTH + len(t.EXCUSES), 2)
        self.blind = _mlp(WIDTH, 2)

    def forward(
        self, name: Tensor, known: Tensor, excuse: Tensor, cause: Tensor, outcome: Tensor,
        cause_relation: Tensor, outcome_relation: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """(batch, spans, ...) of each, see tokens.batches."""
        mean, log_scale, logits = self.raw(name, known, excuse, cause, outcome, cause_relation, outcome_relation)
        return mean, log_scale.exp(), logits.sigmoid()

    def raw(
        self, name: Tensor, known: Tensor, excuse: Tensor, cause: Tensor, outcome: Tensor,
        cause_relation: Tensor, outcome_relation: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Mean, logarithm of the scale, logits."""
        alone = self.known(known) + self.name(name)
        memory = torch.cat([
            self.nothing.expand(name.shape[0], -1, -1),
            self.cause(torch.cat([alone, cause], dim=-1)),
            self.outcome(torch.cat([alone, outcome], dim=-1)),
        ], dim=1)  # fmt: skip
        nothing = torch.zeros_like(cause_relation[:, :, :1])
        row = torch.cat([nothing, 1 + cause_relation, 1 + t.RELATIONS + outcome_relation], dim=2)
        x = alone
        for layer in self.layers:
            x = layer(x, memory, row)
        errors = self.errors(torch.cat([alone, excuse], dim=-1))
        repeats = self.repeats(torch.cat([x, excuse], dim=-1))
        logits = torch.cat([repeats, errors, self.blind(alone)], dim=-1)
        return self.mean(x), self.log_scale(x), logits
