"""InternVL vision tower and projector of the 2B (model.md section 1). q, k and v have no bias: Q3."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internvla_a1.model.attention import Attend, sdpa
from internvla_a1.model.config import InternVisionConfig
from internvla_a1.model.layers import Linear, run_through
from internvla_a1.model.vision_qwen import LayerNorm

if TYPE_CHECKING:
    from internvla_a1.model.cpu.kernels import Block, VisionKernels
    from internvla_a1.model.cuda.vision import CudaVisionKernels


class Attention(nn.Module):
    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = Linear(config.hidden, config.hidden, bias=False)
        self.k_proj = Linear(config.hidden, config.hidden, bias=False)
        self.v_proj = Linear(config.hidden, config.hidden, bias=False)
        self.projection_layer = Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.projection_layer(attend(q, k, v, None).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden, config.mlp)
        self.fc2 = Linear(config.mlp, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):
    """Pre-norm block with a learned scale per channel on both branches."""

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)
        self.layernorm_before = LayerNorm(config.hidden, eps=1e-6)
        self.layernorm_after = LayerNorm(config.hidden, eps=1e-6)
        self.lambda_1 = nn.Parameter(torch.full((config.hidden,), 0.1))
        self.lambda_2 = nn.Parameter(torch.full((config.hidden,), 0.1))

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = x + self.lambda_1.to(x.dtype) * self.attention(self.layernorm_before(x), attend)
        return x + self.lambda_2.to(x.dtype) * self.mlp(self.layernorm_after(x))


class Projector(nn.Module):
    def __init__(self, config: InternVisionConfig, width: int) -> None:
        super().__init__()
        merged = config.hidden * config.shuffle**2
        self.layer_norm = LayerNorm(merged, eps=1e-5)
        self.linear_1 = Linear(merged, width)
        self.linear_2 = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(self.layer_norm(x))))


class InternVision(nn.Module):
    """Images in [0, 1] -> image tokens. No norm follows the last block (mean pooling is configured, and unused)."""

    def __init__(self, config: InternVisionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + (config.image // config.patch) ** 2, config.hidden))
        self.projection = nn.Conv2d(3, config.hidden, kernel_size=config.patch, stride=config.patch)
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.projector = Projector(config, width)
        self.imagenet_mean = nn.Parameter(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), requires_grad=False)
        self.imagenet_std = nn.Parameter(torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), requires_grad=False)
        self.attend: Attend = sdpa
        self.recompute = False  # gradient checkpointing
        self.kernels: VisionKernels | CudaVisionKernels | None = None  # set by precision.place where they are to be used

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, tokens, width)."""
        images = (images - self.imagenet_mean.to(images.dtype)) / self.imagenet_std.to(images.dtype)
        dtype = images.dtype
        weight, bias = self.projection.weight, self.projection.bias
        assert bias is not None
        patches = F.conv2d(images, weight.to(dtype), bias.to(dtype), stride=self.config.patch)
        rows, columns = patches.shape[2:]
        x = torch.cat([self.cls_token.to(dtype).expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(rows, columns).to(dtype)
        if self.kernels is not None and self.kernels.takes(x):
            x = self.kernels.run(self, x)
        else:
            x = run_through(self.layer, x, self.attend, recompute=self.recompute)
        return self.projector(self.shuffle(x[:, 1:].unflatten(1, (rows, columns))))

    @property
    def stack(self) -> list[Layer]:
        """First to last."""
        return cast("list[Layer]", list(self.layer))

    def kernel_blocks(self) -> list[Block]:
        """The layers as the CPU kernels want them."""
        from internvla_a1.model.cpu.kernels import Block, address, matrix

        return [
            Block(
                *(matrix(m) for m in (
                    x.attention.q_proj, x.attention.k_proj, x.attention.v_proj, x.attention.projection_layer, x.mlp.fc1, x.mlp.fc2,
                )),
                *(address(t) for t in (
                    None, None, None, x.attention.projection_layer.bias, x.mlp.fc1.bias, x.mlp.fc2.bias,
                    x.layernorm_before.weight, x.layernorm_before.bias, x.layernorm_after.weight, x.layernorm_after.bias,
                    x.lambda_1, x.lambda_2,
                )),
            )
            for x in self.stack
        ]  # fmt: skip

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, hidden); interpolated bicubically where the image has another size than the configured one."""
        side = self.config.image // self.config.patch
        if (rows, columns) == (side, side):
            return self.position_embeddings
        grid = self.position_embeddings[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.position_embeddings[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1)

    def shuffle(self, x: Tensor) -> Tensor:
        """(N, rows, columns, hidden) -> (N, tokens, hidden * s^2): pixel shuffle as published, columns gathered before rows."""
        s = self.config.shuffle
        n, rows, columns, hidden = x.shape
        x = x.reshape(n, rows, columns // s, hidden * s).transpose(1, 2)
        x = x.reshape(n, columns // s, rows // s, hidden * s * s).transpose(1, 2)
        return x.flatten(1, 2)
