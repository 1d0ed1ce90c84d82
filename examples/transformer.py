"""A transformer whose blocks are made of fused pipelines: a small language model on the texts of Python's own help().

    python -m examples.transformer

A block is causal self-attention and a feed-forward layer, each behind a norm (pre-norm). Everything between its matrix
products is one of four passes over memory:

- SoftmaxDropout: the scores' softmax, with the causal mask, and the dropout of attention probabilities;
- bias_gelu_dropout: the hidden layer's bias, gelu and dropout;
- DropoutAddLayerNorm, twice: the dropout of what a sublayer returns, its residual, and the norm that the next one
  reads.

The same network is trained without dropout, with PyTorch's own layers in a chain, and with the fused ones, which save
neither masks nor what lies between the links of the chain. With --strict the exit status is 1 unless both kinds of
dropout narrow the gap between training and test error and lower the test error, by equal amounts. (With these seeds
the equality was missed by a hair on one machine: fused ended 0.01 nats lower, a little over 3 standard errors.) Texts,
vocabulary and error are those of `examples.recurrent`; the blocks are in `bench/models.py`, since the benchmark
measures what a training step of them needs.
"""

import sys
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from fused_dropout.bench.models import Block

from .experiment import Claim, compare, conclude, improvements, plot_errors, print_errors, read_options
from .recurrent import STEPS, cross_entropy, load

BATCH, LEARNING, WIDTH, HEADS, BLOCKS, P = 40, 2e-3, 128, 4, 2, 0.3


class Transformer(nn.Module):
    """Word indices (N, T) to logits (N, vocabulary, T), the dimensions of torch.nn.functional.cross_entropy."""

    def __init__(self, vocabulary: int, p: float, fused: bool) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(vocabulary, WIDTH), nn.Embedding(STEPS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, p, fused) for _ in range(BLOCKS))
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.normal_(self.places.weight, std=0.1)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words) + self.places.weight[: words.shape[1]]
        normed = self.norm(x)
        for block in self.blocks:
            normed, x = block(normed, x)
        return F.linear(normed, self.embedding.weight).mT


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(__file__, __doc__, arguments, seeds=8, epochs=20)
    training, test, vocabulary = load(options.device)
    variants = {
        name: partial(Transformer, len(vocabulary), p, fused)
        for name, p, fused in (("no dropout", 0.0, True), ("native", P, False), ("fused", P, True))
    }
    errors, _ = compare(variants, training, test, options, batch=BATCH, learning=LEARNING, measure=cross_entropy)
    title = f"A transformer that reads {training.x.numel()} words: learnt by heart, without dropout"
    plot_errors(errors, title, "cross-entropy (nats a word)", (1, 6), options.plot)
    print_errors(errors, "Cross-entropy, in nats a word,")
    claims = [claim for name in ("native", "fused") for claim in improvements(errors, name, "no dropout")]
    for column, which in ((1, "test"), (0, "training")):
        difference = errors["fused"][:, -1, column] - errors["native"][:, -1, column]
        claims.append(Claim(f"fused equals native in {which} error, to", difference, equal=True))
    return conclude(claims, "in nats a word", options, "transformer")


if __name__ == "__main__":
    sys.exit(main())
