"""What connects the experts to latents, state and actions. Names follow the 2B; names.py maps the 3B's (model.md section 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internvla_a1.model.config import ModelConfig
from internvla_a1.model.layers import Linear, linear, widened_linear
from internvla_a1.model.vision_qwen import LayerNorm


def mapped(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear map whose weight may be stored narrower than x."""
    return linear(x, weight, bias) if weight.dtype == x.dtype else widened_linear(x, weight, bias)


def _bias(module: nn.Module) -> Tensor:
    """Of a convolution that has one."""
    assert isinstance(module.bias, Tensor)
    return module.bias


class LatentHead(nn.Module):
    """Latents to generation tokens and generation output back to latents."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, size, latent = config.gen.hidden, config.scale_factor, config.codec.latent
        self.side = config.codec.grid // size
        self.gen_in_proj = nn.Conv2d(latent, width, 1)
        self.downsample_conv = nn.Conv2d(width, width, size, stride=size)
        self.upsample_conv = nn.ConvTranspose2d(width, width, size, stride=size)
        self.gen_out_layer_norm = LayerNorm(width, eps=1e-5)
        self.gen_out_proj = Linear(width, latent)
        self.gen_past_conv = nn.Conv2d(latent, width, size, stride=size, bias=False) if config.motion_tokens else None
        if self.gen_past_conv is not None:
            nn.init.zeros_(self.gen_past_conv.weight)
        self.gen_keep_proj = Linear(width, 1) if config.residual_foresight else None
        self._folded: tuple[Tensor, Tensor] | None = None

    def embed(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, 2, 16, h, w), past and now -> (N, 2 * side * side, width) in frame, row, column order."""
        frames = latents.flatten(0, 1)
        if torch.is_grad_enabled():
            tokens = self.downsample_conv(self.gen_in_proj(frames.to(self.gen_in_proj.weight.dtype)))
        else:
            weight, bias = self.folded()
            tokens = F.conv2d(frames.float(), weight, bias, stride=self.downsample_conv.stride)
        tokens = tokens.unflatten(0, latents.shape[:2])
        if self.gen_past_conv is not None:
            before = self.gen_past_conv(latents[:, 0].to(self.gen_past_conv.weight.dtype))
            tokens = torch.stack([tokens[:, 0], tokens[:, 1] + before.to(tokens.dtype)], 1)
        return tokens.flatten(3).transpose(2, 3).flatten(1, 2).to(dtype)

    def folded(self) -> tuple[Tensor, Tensor]:
        """The 1x1 and the strided convolution as one, (width, 16, s, s) and bias: sixteen inputs a cell instead of `width`."""
        if self._folded is None:
            inner, outer = self.gen_in_proj.weight.float().flatten(1), self.downsample_conv.weight
            inner_bias, outer_bias = _bias(self.gen_in_proj), _bias(self.downsample_conv)
            weight = torch.stack([torch.einsum("ihw,il->lhw", part.float(), inner) for part in outer])
            spread = torch.stack([(part.float().sum((1, 2)) * inner_bias.float()).sum() for part in outer])
            self._folded = weight, outer_bias.float() + spread
        return self._folded

    def forget_folded(self) -> None:
        self._folded = None

    def predict(self, gen_out: Tensor, now: Tensor) -> Tensor:
        """(N, 2 * side * side, width) -> predicted future latents (N, 16, h, w), float32.

        The mean over past and now tokens is spread over the cells. now: (N, 16, h, w), of which every cell keeps a share with
        `residual_foresight`; the published heads draw all anew.
        """
        size = self.upsample_conv.kernel_size[0]
        tokens = gen_out.unflatten(1, (2, self.side, self.side)).mean(1)  # (N, side, side, width)
        weight, bias = self.upsample_conv.weight, _bias(self.upsample_conv)
        cells = mapped(tokens, weight.flatten(1).t(), None).unflatten(-1, (-1, size, size)) + bias[:, None, None].to(tokens.dtype)
        cells = cells.permute(0, 1, 4, 2, 5, 3).flatten(1, 2).flatten(2, 3)  # (N, h, w, width)
        cells = self.gen_out_layer_norm(cells)
        drawn = self.gen_out_proj(cells).permute(0, 3, 1, 2).float()
        if self.gen_keep_proj is None:
            return drawn
        keep = torch.sigmoid(self.gen_keep_proj(cells).float()).permute(0, 3, 1, 2)
        return drawn + keep * now


class ActionHead(nn.Module):
    """State and noisy actions to tokens, action tokens to velocities. Kept in float32: the integration is."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.act.hidden
        self.state_proj = Linear(config.state_dim, width)
        self.action_in_proj = Linear(config.action_dim, width)
        self.action_time_mlp_in = Linear(2 * width, width)
        self.action_time_mlp_out = Linear(width, width)
        self.action_out_proj = Linear(width, config.action_dim)

    def time_bias(self, embedding: Tensor) -> Tensor:
        """(..., width) time embedding -> its share of the first MLP layer, bias included: one vector a step, not one a token."""
        weight = self.action_time_mlp_in.weight
        return F.linear(embedding.to(weight.dtype), weight.narrow(1, weight.shape[0], weight.shape[0]), self.action_time_mlp_in.bias)

    def embed(self, actions: Tensor, time_bias: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
        """actions: (B, chunk, action_dim); time_bias: broadcastable to (B, chunk, width); first, second: (B, chunk, width) buffers."""
        weight = self.action_time_mlp_in.weight
        h = linear(self.action_in_proj(actions, first), weight.narrow(1, 0, weight.shape[0]), None, second)
        h = torch.add(h, time_bias, out=second)
        return self.action_time_mlp_out(F.silu(h, inplace=second is not None), first)
