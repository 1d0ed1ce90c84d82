"""Dropout in a recurrent network: a small language model on the texts of Python's own help().

    python -m examples.recurrent

An LSTM reads words and predicts the next one. Fresh noise at every time step disturbs what it has to remember, hence

- LockedDropout: one mask for all time steps, on the embedded words and on the LSTM's outputs (Gal and Ghahramani, "A
  theoretically grounded application of dropout in recurrent neural networks", 2016);
- WeightDrop: the recurrent weights themselves are dropped, once for a whole sequence (Merity et al., "Regularizing and
  optimizing LSTM language models", 2018).

It is trained on a small part of the prose, whose sentences it learns by heart, and tested on paragraphs that it has not
seen. Its vocabulary is that of the training part; all other words count as one. The error is the cross-entropy: e to
its power, the perplexity, is how many words the network hesitates between. With --strict the exit status is 1 unless
each of the two, and both together, narrow the gap between training and test error and lower the test error. What it
does not say: beside locked dropout, dropped weights add next to nothing at these p, and who stops in time, which takes
a third set to tell, does nearly as well without either. The texts, and so the numbers, differ a little from one version
of Python to the next.
"""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

from fused_dropout import LockedDropout, WeightDrop

from .experiment import Data, compare, conclude, improvements, plot_errors, print_errors, read_options

TRAINING_WORDS, TEST_WORDS, STEPS = 5000, 4000, 16
BATCH, LEARNING, WIDTH, P_LOCKED, P_WEIGHT = 40, 1e-2, 128, 0.3, 0.3
OTHER = "<other>"


def paragraphs() -> list[list[str]]:
    """The words of each paragraph of prose, each paragraph once (topics repeat one another), in an order of chance."""
    texts = (" ".join(part.split()) for text in topics.values() for part in text.split("\n\n"))
    prose = [text for text in dict.fromkeys(texts) if len(text) > 80 and text[0].isupper()]
    order = torch.randperm(len(prose), generator=torch.Generator().manual_seed(0))
    return [re.findall(r"\w+|[^\w\s]", prose[at].lower()) for at in order]


def split(parts: Sequence[list[str]]) -> tuple[list[str], list[str]]:
    """Training and test words, a paragraph being wholly of the one or of the other, or left out."""
    words: tuple[list[str], list[str]] = [], []
    for part in parts:
        if len(words[0]) < TRAINING_WORDS:
            words[0].extend(part)
        elif len(words[1]) < TEST_WORDS:
            words[1].extend(part)
    return words


def load(device: torch.device) -> tuple[Data, Data, list[str]]:
    """Training and test sequences, and the vocabulary: words that occur twice in the training part."""
    training, test = split(paragraphs())
    vocabulary = [OTHER, *(word for word, count in Counter(training).items() if count > 1)]
    return sequences(training, vocabulary, device), sequences(test, vocabulary, device), vocabulary


def sequences(words: Sequence[str], vocabulary: Sequence[str], device: torch.device) -> Data:
    """Indices of words, (N, STEPS), and as targets those of the words that follow."""
    index = {word: at for at, word in enumerate(vocabulary)}
    indices = torch.tensor([index.get(word, index[OTHER]) for word in words], device=device)
    whole = (len(words) - 1) // STEPS * STEPS
    return Data(indices[:whole].view(-1, STEPS), indices[1 : whole + 1].view(-1, STEPS))


class LanguageModel(nn.Module):
    """Word indices (N, T) to logits (N, vocabulary, T), the dimensions of torch.nn.functional.cross_entropy."""

    def __init__(self, vocabulary: int, p_locked: float, p_weight: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.drop = LockedDropout(p_locked, batch_first=True)
        self.lstm = WeightDrop(nn.LSTM(WIDTH, WIDTH, batch_first=True), p=p_weight)
        self.decoder = nn.Linear(WIDTH, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.decoder.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.drop(self.embedding(words)))
        return self.decoder(self.drop(outputs)).mT


def cross_entropy(net: nn.Module, data: Data) -> float:
    return nn.functional.cross_entropy(net(data.x), data.target).item()


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(__file__, __doc__, arguments, seeds=5, epochs=35)
    training, test, vocabulary = load(options.device)
    variants = {
        name: partial(LanguageModel, len(vocabulary), p_locked, p_weight)
        for name, p_locked, p_weight in (
            ("no dropout", 0.0, 0.0),
            ("LockedDropout", P_LOCKED, 0.0),
            ("WeightDrop", 0.0, P_WEIGHT),
            ("both", P_LOCKED, P_WEIGHT),
        )
    }
    errors, _ = compare(variants, training, test, options, batch=BATCH, learning=LEARNING, measure=cross_entropy)
    title = f"A language model of {training.x.numel()} words: learnt by heart, without dropout"
    plot_errors(errors, title, "cross-entropy (nats a word)", (1, 6), options.plot)
    print_errors(errors, "Cross-entropy, in nats a word,")
    claims = [claim for name in list(variants)[1:] for claim in improvements(errors, name, "no dropout")]
    return conclude(claims, "in nats a word", options, "recurrent")


if __name__ == "__main__":
    sys.exit(main())
