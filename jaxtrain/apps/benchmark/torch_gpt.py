"""GPT-2 in plain torch, the baseline of the GPU check: SDPA, and a static KV cache for decode."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jaxtrain.models.zoo import Arch

STD = 0.02  # of initial weights


class GptBlock(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm."""

    def __init__(self, arch: Arch):
        super().__init__()
        D = arch.width
        self.heads, self.width = arch.heads, arch.C
        self.norm1, self.norm2 = nn.LayerNorm(D, arch.norm_eps), nn.LayerNorm(D, arch.norm_eps)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, arch.ff), nn.Linear(arch.ff, D)

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k, v [B, H, T, C]."""
        B, T, _ = x.shape
        return tuple(
            part.view(B, T, self.heads, self.width).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    def forward(self, x: Tensor) -> Tensor:
        return self._rest(x, F.scaled_dot_product_attention(*self._heads(self.norm1(x)), is_causal=True))

    def cached(self, x: Tensor, cache: Tensor, place: Tensor, mask: Tensor) -> Tensor:
        """Of tokens at places i64[T]; writes their keys and values into the cache f[2, B, H, S, C]."""
        q, k, v = self._heads(self.norm1(x))
        cache[0][:, :, place], cache[1][:, :, place] = k, v
        return self._rest(x, F.scaled_dot_product_attention(q, cache[0], cache[1], attn_mask=mask))


class Gpt(nn.Module):
    """A decoder of zoo's gpt2 family: learned positions, LayerNorm, GELU, biases, a tied embedding."""

    def __init__(self, arch: Arch):
        super().__init__()
        if arch.positions != "learned" or arch.norm != "layer" or arch.heads != arch.K or not arch.tied:
            raise ValueError("the torch baseline is GPT-2's architecture alone")
        self.embed, self.positions = (
            nn.Embedding(arch.vocab, arch.width),
            nn.Embedding(arch.max_len, arch.width),
        )
        self.blocks = nn.ModuleList(GptBlock(arch) for _ in range(arch.layers))
        self.norm = nn.LayerNorm(arch.width, arch.norm_eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                narrow = (2 * arch.layers) ** -0.5 if "out" in name or "down" in name else 1.0
                nn.init.normal_(p, std=STD * narrow)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy."""
        x = self.embed(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.loss(x, targets)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of the last block's output."""
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def decode(self, tokens: Tensor, place: Tensor, caches: Tensor) -> Tensor:
        """i64[B, 1], a sample of the token after i64[B, T] at places i64[T]; caches f[L, 2, B, H, S, C]."""
        x = self.embed(tokens) + self.positions(place)
        mask = torch.arange(caches.shape[-2], device=place.device) <= place[:, None]
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block.cached(x, cache, place, mask)
        probabilities = F.linear(self.norm(x[:, -1]), self.embed.weight).float().softmax(-1)
        # The largest p / Exp(1) is a sample; torch.multinomial waits for the device.
        return (probabilities / torch.empty_like(probabilities).exponential_(1)).argmax(-1, keepdim=True)
