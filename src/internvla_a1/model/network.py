"""InternVLA-A1 as one module: predict a chunk, or compute the training losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internvla_a1.core.errors import ConfigError, DataError
from internvla_a1.model import attention
from internvla_a1.model.config import InternVisionConfig, ModelConfig, QwenVisionConfig
from internvla_a1.model.cosmos import CosmosCodec
from internvla_a1.model.denoiser import Denoiser
from internvla_a1.model.flow import FixedHook, VelocityHook, noisy_actions, time_embedding
from internvla_a1.model.heads import ActionHead, LatentHead
from internvla_a1.model.inputs import Inputs, read_batch
from internvla_a1.model.layers import embedding
from internvla_a1.model.layout import Layout, Layouts
from internvla_a1.model.mixture import Mixture
from internvla_a1.model.vision_internvl import InternVision
from internvla_a1.model.vision_qwen import QwenVision
from internvla_a1.model.vision_stem import StemVision

if TYPE_CHECKING:
    from internvla_a1.model.cuda.graphs import ChunkGraphs

COMPAT = ("published", "consistent")
PIXELS_AT_ONCE = 2**17  # through the image tokenizer on a CPU


@dataclass(frozen=True)
class Prediction:
    """actions: (B, chunk, used_action_dim), normalised as the policy's statistics say; padded_actions: all action_dim columns.

    now_latents: (B, V, 16, h, w) of the present frames, to pass as `past_latents` once they are the past; zeros for a missing view.
    latents: predicted future latents, same shape, or None. images: decoded future (B, V, 3, H, W) in about [-1, 1], or None.
    """

    actions: Tensor
    padded_actions: Tensor
    now_latents: Tensor
    latents: Tensor | None = None
    images: Tensor | None = None


class Outcome(NamedTuple):
    """Parts of a Prediction: actions with all columns, latents of the present, predicted ones or None."""

    actions: Tensor
    now_latents: Tensor
    latents: Tensor | None


@dataclass(frozen=True)
class Context:
    """What the understanding and generation experts left behind: a filled cache, and the generation output where it was asked for."""

    layout: Layout
    denoiser: Denoiser
    now_latents: Tensor
    gen_out: Tensor | None


@dataclass(frozen=True)
class JointOutputs:
    """Intermediates of a training pass on the kept tokens of `layout`."""

    layout: Layout
    und_out: Tensor | None
    gen_out: Tensor
    act_out: Tensor
    act_embeddings: Tensor
    velocity: Tensor
    predicted_latents: Tensor
    future_latents: Tensor


class InternVLAA1(nn.Module):
    """The model. `compat` picks published or consistent arithmetic where the two differ (Q1, Q5; docs/model.md)."""

    def __init__(self, config: ModelConfig, compat: str = "consistent") -> None:
        super().__init__()
        if compat not in COMPAT:
            raise ConfigError.asked("compat", compat, COMPAT)
        self.config, self.compat = config, compat
        self.compute_dtype = torch.float32  # of activations; both are set by precision.place
        self.stored_dtype = torch.float32  # of the large matrices
        self.stage: Callable[[str], AbstractContextManager] = nullcontext  # benchmarks put a stopwatch here
        self.graphs: ChunkGraphs | None = None  # set by precision.place on a CUDA device
        self.embed_tokens = embedding(config.vocab, config.und.hidden)
        towers = {"qwen": QwenVision, "intern": InternVision, "stem": StemVision}
        self.vision = towers[config.vision.kind](config.vision, config.und.hidden)
        self.mixture = Mixture(config)
        self.latent_head = LatentHead(config)
        self.action_head = ActionHead(config)
        self.codec = CosmosCodec(config.codec)
        self._layouts = Layouts()
        self._denoisers: dict[tuple, Denoiser] = {}

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    def set_attention(self, name: str = "auto") -> None:
        """Choose the attention backend of every part (attention.BACKENDS). ConfigError or MissingDependencyError if it cannot be."""
        chosen = attention.choose(name, self.device, self.compute_dtype)
        self.mixture.attend = chosen
        self.vision.attend = chosen

    def train(self, mode: bool = True) -> InternVLAA1:
        """Also forgets what inference derived from weights that are about to change."""
        self.forget_weights()
        return super().train(mode)

    def forget_weights(self) -> None:
        self.latent_head.forget_folded()
        for part in (self.mixture, self.vision, self.codec):
            kernels = getattr(part, "kernels", None)
            if kernels is not None:
                kernels.forget()
        for denoiser in self._denoisers.values():
            denoiser.forget_weights()
        if self.graphs is not None:
            self.graphs.clear()

    # ---- inference ----

    def predict(
        self,
        batch: Mapping[str, Tensor],
        noise: Tensor | None = None,
        num_steps: int | None = None,
        foresight: bool = False,
        past_latents: Tensor | None = None,
        velocity_hook: VelocityHook | None = None,
    ) -> Prediction:
        """One chunk from one observation (policy keys of model.md section 8).

        noise: (B, chunk, action_dim), drawn from torch's generator if None. foresight: also predict future latents; decode_foresight
        turns them into images when somebody looks. past_latents: `now_latents` of the prediction that saw the past frames.
        velocity_hook(v_fn, x, t) -> v stands in for v_fn(x, t) at every step; under torch.enable_grad v_fn is differentiable in x.
        """
        with torch.no_grad():
            inputs = read_batch(self.config, batch, self.device)
            shape = (len(inputs.state), self.config.chunk, self.config.action_dim)
            if noise is None:
                noise = torch.randn(shape, device=self.device)
            if tuple(noise.shape) != shape:
                raise DataError(f"noise must be {shape}, got {tuple(noise.shape)}")
            noise, steps = noise.to(self.device), num_steps or self.config.steps
            hook = velocity_hook if isinstance(velocity_hook, FixedHook) else None
            if self.graphs is not None and hook is velocity_hook and self.stage is nullcontext:
                actions, now, latents = self.graphs.run(inputs, noise, steps, foresight, past_latents, hook)
            else:
                actions, now, latents = self.chunk(inputs, noise, steps, foresight, past_latents, velocity_hook)
        return Prediction(actions[..., : self.config.used_action_dim], actions, now, latents)

    def chunk(
        self,
        inputs: Inputs,
        noise: Tensor,
        steps: int,
        foresight: bool,
        past_latents: Tensor | None,
        velocity_hook: VelocityHook | None = None,
    ) -> Outcome:
        """What `predict` computes on the device; without a hook nothing is read on the host."""
        context = self.encode(inputs, foresight=foresight, past_latents=past_latents)
        with self.stage("actions"):
            actions = context.denoiser.sample(noise, steps, velocity_hook, self.rounds_time)
        latents = None if context.gen_out is None else self.predict_latents(context.gen_out, context.layout, context.now_latents)
        return Outcome(actions, context.now_latents, latents)

    @property
    def rounds_time(self) -> bool:
        """Q5: published bfloat16 inference of the 3B rounds t to bfloat16."""
        return self.compat == "published" and self.config.variant == "3b" and self.stored_dtype == torch.bfloat16

    def encode(self, inputs: Inputs, foresight: bool = False, past_latents: Tensor | None = None, drop: bool = True) -> Context:
        """Everything that does not depend on the noise: prefix, middle and state token, their keys and values in the static cache."""
        layout = self.inference_layout(inputs, drop)
        denoiser = self.denoiser(layout)
        mixture, cache, prefix, past = self.mixture, denoiser.cache, len(layout.prefix), layout.past
        with self.beside(self.stage("tokenizer")):
            latents = self.frame_latents(inputs, layout, past_latents)
            middle = self.embed_middle(latents, layout)
        with self.stage("vision"):
            embedded = self.embed_prefix(inputs, layout)
        with self.stage("understanding"):
            mixture.phase(mixture.und, embedded, layout.rope(0, prefix), cache, 0, layout.key_mask(prefix), tail=False)
        self.join()
        with self.stage("generation"):
            rope, mask = layout.rope(prefix, past - prefix), layout.key_mask(past)
            gen_out = mixture.phase(mixture.gen, middle, rope, cache, prefix, mask, tail=foresight)
        with self.stage("state"):
            state = self.embed_state(inputs)
            denoiser.take_state(state, layout.rope(past, 1))
        return Context(layout, denoiser, self.all_views(latents[:, 1], layout), gen_out)

    def beside(self, stage: AbstractContextManager) -> AbstractContextManager:
        """What runs in it runs beside what follows, up to `join`: on a stream of its own while a CUDA graph is made; else just `stage`."""
        if self.graphs is None or self.stage is not nullcontext:
            return stage
        return self.graphs.beside()

    def join(self) -> None:
        """Wait for what runs beside."""
        if self.graphs is not None:
            self.graphs.join()

    def inference_layout(self, inputs: Inputs, drop: bool = True) -> Layout:
        return self.layout(inputs, self.compat == "published", drop)

    def layout(self, inputs: Inputs, published: bool, drop: bool = True) -> Layout:
        return self._layouts.get(self.config, inputs.pattern, self.device, self.compute_dtype, published, drop)

    def denoiser(self, layout: Layout) -> Denoiser:
        """The static state of this shape, allocated the first time the shape is seen."""
        key = (layout.batch, layout.past, layout.chunk, self.device, self.compute_dtype)
        if key not in self._denoisers:
            self._denoisers[key] = Denoiser(self.config, self.mixture, self.action_head, layout, self.device, self.compute_dtype)
        self._denoisers[key].load(layout)
        return self._denoisers[key]

    # ---- embeddings ----

    def embed_prefix(self, inputs: Inputs, layout: Layout) -> Tensor:
        """(B, P, und hidden): token embeddings with the image features of existing views written over their placeholders."""
        width = self.config.und.hidden
        tokens = self.embed_tokens(inputs.ids[:, layout.prefix]).to(self.compute_dtype)
        if self.config.scale_text:
            tokens = tokens * width**0.5
        features = self.view_features(inputs, layout).to(tokens.dtype)  # under autocast they come narrower
        return tokens.flatten(0, 1).index_copy(0, layout.image_rows, features.flatten(0, 1)).view(layout.batch, -1, width)

    def view_features(self, inputs: Inputs, layout: Layout) -> Tensor:
        """(N, tokens, und hidden) of the present frame of every existing view."""
        if isinstance(self.config.vision, QwenVisionConfig):
            assert inputs.patches is not None and inputs.patch_grid is not None
            return self.vision(inputs.patches[layout.views].to(self.compute_dtype), inputs.patch_grid)
        images = inputs.images[:, :, inputs.now].flatten(0, 1)[layout.views]
        if isinstance(self.config.vision, InternVisionConfig):
            return self.vision(images.to(self.compute_dtype))
        first_text = inputs.ids.shape[1] - self.config.text_tokens
        text = self.embed_tokens(inputs.ids[:, first_text:])
        text = text * layout.prefix_valid[:, first_text:, None].to(text.dtype)
        return self.vision(images.float(), text.float()[layout.views // self.config.views]).to(self.compute_dtype)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> tokenizer latents (N, 16, h, w), float32."""
        size = self.config.codec.image
        at_once = len(frames)
        if self.device.type == "cpu" and not torch.is_grad_enabled():  # a CPU is no faster with more, and would need room for all
            at_once = max(1, PIXELS_AT_ONCE // size**2)
        parts = []
        for part in frames.split(at_once):
            part = part.float()
            if part.shape[2:] != (size, size):
                part = F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)
            parts.append(self.codec.encode(part * 2 - 1).float())
        return torch.cat(parts)

    def frame_latents(self, inputs: Inputs, layout: Layout, past_latents: Tensor | None = None) -> Tensor:
        """(N, 2, 16, h, w) latents of past and present frame of every existing view."""
        now = inputs.images[:, :, inputs.now].flatten(0, 1)[layout.views]
        if past_latents is not None:
            past = past_latents.to(self.device, torch.float32).flatten(0, 1)[layout.views]
            return torch.stack([past, self.encode_frames(now)], dim=1)
        if inputs.images.shape[2] < 2:
            raise DataError("one frame a view needs past_latents; pass frames past and now, or the latents of the past")
        both = torch.stack([inputs.images[:, :, 0].flatten(0, 1)[layout.views], now], dim=1)
        return self.encode_frames(both.flatten(0, 1)).unflatten(0, (-1, 2))

    def embed_middle(self, latents: Tensor, layout: Layout) -> Tensor:
        """(N, 2, 16, h, w) -> (B, M, gen hidden); tokens of a view that only other samples have are zero and masked."""
        tokens = self.latent_head.embed(latents, self.compute_dtype)
        rows = layout.batch * len(layout.kept_views)
        if len(tokens) != rows:
            tokens = tokens.new_zeros(rows, *tokens.shape[1:]).index_copy(0, layout.gen_rows, tokens)
        return tokens.reshape(layout.batch, -1, tokens.shape[-1])

    def embed_state(self, inputs: Inputs) -> Tensor:
        """(B, 1, act hidden)."""
        return self.action_head.state_proj(inputs.state)[:, None].to(self.compute_dtype)

    def all_views(self, values: Tensor, layout: Layout) -> Tensor:
        """(N, ...) of existing views -> (B, V, ...), zeros for the others."""
        full = values.new_zeros(layout.batch * self.config.views, *values.shape[1:])
        return full.index_copy(0, layout.views, values).unflatten(0, (layout.batch, -1))

    # ---- foresight ----

    def predict_latents(self, gen_out: Tensor, layout: Layout, now: Tensor) -> Tensor:
        """gen_out: (B, M, gen hidden); now: (B, V, 16, h, w), the present -> (B, V, 16, h, w), float32."""
        rows = gen_out.reshape(layout.batch * len(layout.kept_views), -1, gen_out.shape[-1])[layout.gen_rows]
        return self.all_views(self.latent_head.predict(rows, now.flatten(0, 1)[layout.views]), layout)

    def decode_foresight(self, latents: Tensor) -> Tensor:
        """(B, V, 16, h, w) -> images (B, V, 3, H, W) in about [-1, 1]. Any batch; needs no context, so it can run whenever."""
        with torch.no_grad():
            return self.codec.decode(latents.flatten(0, 1)).float().unflatten(0, latents.shape[:2])

    # ---- training ----

    def losses(
        self, batch: Mapping[str, Tensor], noise: Tensor, time: Tensor, latents: Tensor | None = None, intermediates: bool = False
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, JointOutputs]:
        """(B, chunk, action_dim) squared velocity errors, and the foresight loss over existing views (paper section 4; model.md 7).

        batch also holds `action` (B, chunk, action_dim) and three frames a view. noise: like the actions; time: (B,).
        latents: (B, V, 3, 16, h, w) of past, now and future, if the data set keeps them; the tokenizer is frozen either way.
        """
        inputs = read_batch(self.config, batch, self.device)
        joint = self.joint_outputs(
            inputs, batch["action"].to(self.device, torch.float32), noise.to(self.device), time.to(self.device), latents
        )
        loss_action = F.mse_loss(joint.velocity, noise.to(self.device) - batch["action"].to(self.device), reduction="none")
        predicted, future = (t.flatten(0, 1)[joint.layout.views] for t in (joint.predicted_latents, joint.future_latents))
        loss_gen = F.mse_loss(predicted, future)
        return (loss_action, loss_gen, joint) if intermediates else (loss_action, loss_gen)

    def joint_outputs(
        self,
        inputs: Inputs,
        actions: Tensor,
        noise: Tensor,
        time: Tensor,
        latents: Tensor | None = None,
        drop: bool = True,
        want_und: bool = False,
    ) -> JointOutputs:
        """One pass over prefix, middle and suffix under the block mask."""
        layout = self.layout(inputs, published=False, drop=drop)
        if latents is None:
            latents = self.three_latents(inputs, layout)
        kept = latents.to(self.device, torch.float32).flatten(0, 1)[layout.views]
        x_t, _ = noisy_actions(actions, noise, time)
        embedding = time_embedding(time, self.config.act.hidden, self.config.min_period, self.config.max_period)
        act_tokens = self.action_head.embed(x_t, self.action_head.time_bias(embedding)[:, None]).to(self.compute_dtype)
        act = torch.cat([self.embed_state(inputs), act_tokens], dim=1)
        und, middle = self.embed_prefix(inputs, layout), self.embed_middle(kept[:, :2], layout)
        rope = (layout.cos, layout.sin)
        und_out, gen_out, act_out = self.mixture.joint(und, middle, act, rope, layout.block_mask(), want_und)
        velocity = self.action_head.action_out_proj(act_out[:, 1:].float())
        predicted = self.predict_latents(gen_out, layout, latents[:, :, 1])
        return JointOutputs(layout, und_out, gen_out, act_out, act, velocity, predicted, latents[:, :, 2])

    def three_latents(self, inputs: Inputs, layout: Layout) -> Tensor:
        """(B, V, 3, 16, h, w) of past, now and future frames, without gradient."""
        if inputs.images.shape[2] != 3:
            raise DataError(f"training needs the frames past, now and future of every view, got {inputs.images.shape[2]}")
        with torch.no_grad():
            frames = inputs.images.flatten(0, 1)[layout.views]
            return self.all_views(self.encode_frames(frames.flatten(0, 1)).unflatten(0, (-1, 3)), layout)
