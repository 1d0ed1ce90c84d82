"""Networks of fused pipelines, and the same ones of PyTorch's own layers: what a training step is measured of.

`fused` chooses. examples/transformer.py trains both kinds of the transformer's blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_dropout import DropoutAddLayerNorm, SoftmaxDropout, bias_gelu_dropout, bias_relu_dropout


def native_bias_relu_dropout(input: Tensor, bias: Tensor, p: float, training: bool) -> Tensor:
    return F.dropout(F.relu(input + bias), p, training)


class HiddenLayer(nn.Module):
    """Linear, relu and dropout: (N, width) to (N, width)."""

    def __init__(self, width: int, p: float, fused: bool) -> None:
        super().__init__()
        self.p, self.linear = p, nn.Linear(width, width)
        self.activation = bias_relu_dropout if fused else native_bias_relu_dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(F.linear(x, self.linear.weight), self.linear.bias, self.p, self.training)


class Mlp(nn.Sequential):
    """Hidden layers of one width, as a network on tabular data has them: (N, width) to (N, width)."""

    def __init__(self, width: int, layers: int, p: float, fused: bool) -> None:
        super().__init__(*(HiddenLayer(width, p, fused) for _ in range(layers)))


class NativeSoftmaxDropout(nn.Module):
    def __init__(self, p: float, softmax_scale: float) -> None:
        super().__init__()
        self.p, self.softmax_scale = p, softmax_scale

    def forward(self, scores: Tensor, attn_mask: Tensor) -> Tensor:
        scores = (scores * self.softmax_scale).masked_fill(~attn_mask, -torch.inf)
        return F.dropout(torch.softmax(scores, -1), self.p, self.training)


class NativeDropoutAddLayerNorm(nn.LayerNorm):
    def __init__(self, normalized_shape: int, p: float) -> None:
        super().__init__(normalized_shape)
        self.p = p

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        sum = residual + F.dropout(input, self.p, self.training)
        return super().forward(sum), sum


def native_bias_gelu_dropout(input: Tensor, bias: Tensor, p: float, training: bool) -> Tensor:
    return F.dropout(F.gelu(input + bias), p, training)


class Attention(nn.Module):
    """Causal self-attention with several heads (Vaswani et al., "Attention is all you need", 2017): (N, T, width)."""

    def __init__(self, width: int, heads: int, p: float, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.combine = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.probabilities = (SoftmaxDropout if fused else NativeSoftmaxDropout)(p, (heads / width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        past = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
        heads = self.probabilities(query @ key.mT, past) @ value
        return self.combine(heads.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Four times as many hidden units, between two linear layers: (N, T, width)."""

    def __init__(self, width: int, p: float, fused: bool) -> None:
        super().__init__()
        self.p = p
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation = bias_gelu_dropout if fused else native_bias_gelu_dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.linear(x, self.expand.weight)
        return self.contract(self.activation(hidden, self.expand.bias, self.p, self.training))


class Block(nn.Module):
    """Takes and returns a pair: a norm's output, and the residual stream that it is the norm of."""

    def __init__(self, width: int, heads: int, p: float, fused: bool) -> None:
        super().__init__()
        end = DropoutAddLayerNorm if fused else NativeDropoutAddLayerNorm
        self.attention, self.end_of_attention = Attention(width, heads, p, fused), end(width, p)
        self.feed_forward, self.end_of_feed_forward = FeedForward(width, p, fused), end(width, p)

    def forward(self, normed: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        normed, residual = self.end_of_attention(self.attention(normed), residual)
        return self.end_of_feed_forward(self.feed_forward(normed), residual)


class Blocks(nn.ModuleList):
    """A stack of them: (N, T, width) to (N, T, width)."""

    def __init__(self, width: int, heads: int, blocks: int, p: float, fused: bool) -> None:
        super().__init__(Block(width, heads, p, fused) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        normed, residual = x, x
        for block in self:
            normed, residual = block(normed, residual)
        return normed
