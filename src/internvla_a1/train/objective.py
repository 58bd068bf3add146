"""The training pass over several noise draws of one observation, as sums and counts that add up over processes.

Prefix and middle do not depend on the noise, so R draws share them: R copies of state and actions follow, each blind to the others.
With one draw the losses are those of `InternVLAA1.losses` (paper section 4; model.md section 7).
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from internvla_a1.core.errors import MissingDependencyError
from internvla_a1.model.attention import Attend
from internvla_a1.model.flow import noisy_actions, time_embedding
from internvla_a1.model.layout import Layout
from internvla_a1.model.mixture import ExpertLayer, Mixture, Rope
from internvla_a1.model.network import InternVLAA1, read_batch
from internvla_a1.train.batches import OBJECTS
from internvla_a1.train.config import LossConfig

LEAST_CHANGE = 0.02  # of a view, as a share of the mean of all: less weighs no more
Parts = dict[str, tuple[Tensor, Tensor]]  # name -> (sum of the loss, number of terms)


@dataclass(frozen=True)
class JointPass:
    """velocity: (B, R, chunk, action_dim). predicted: (N, 16, h, w) of existing views. und_out: (B, P, und hidden) or None.

    gen_in: (B, M, gen hidden), the generation expert's tokens as they enter the last layer, the last that the action expert reads.
    """

    layout: Layout
    velocity: Tensor
    predicted: Tensor
    und_out: Tensor | None
    gen_in: Tensor


def drawn_mask(mask: Tensor, past: int, draws: int) -> Tensor:
    """(B, 1, L, L) of one draw -> the mask with `draws` copies of state and actions behind the `past` other tokens."""
    if draws == 1:
        return mask
    head, tail = mask[:, :, :past, :past], mask[:, :, past:]
    batch, own = mask.shape[0], tail.shape[2]
    seen = tail[..., :past].repeat(1, 1, draws, 1)
    blocks = tail.new_zeros(batch, 1, draws, own, draws, own)
    for r in range(draws):
        blocks[:, :, r, :, r] = tail[..., past:]
    rows = torch.cat([seen, blocks.reshape(batch, 1, draws * own, draws * own)], dim=-1)
    above = torch.cat([head, head.new_zeros(batch, 1, past, draws * own)], dim=-1)
    return torch.cat([above, rows], dim=2)


def drawn_rope(rope: Rope, past: int, draws: int) -> Rope:
    """Every copy has the positions of the first."""
    cos, sin = (torch.cat([t[:, :, :past], t[:, :, past:].repeat(1, 1, draws, 1)], dim=2) for t in rope)
    return cos, sin


def block_masks(mask: Tensor, counts: list[int]) -> list[Tensor | None]:
    """The joint mask (B, 1, L, L) as one (B, 1, own, past + own) for each expert, None where everything in it may be seen.

    Nothing sees forward, so an expert's queries need only the keys up to its own: a third less work than the whole square.
    On a GPU the mask is kept: to look at it would make the host wait for the device.
    """
    masks: list[Tensor | None] = []
    for e, own in enumerate(counts):
        past = sum(counts[:e])
        part = mask[:, :, past : past + own, : past + own]
        masks.append(None if part.device.type == "cpu" and bool(part.all()) else part)
    return masks


def joint_layer(
    layers: Sequence[ExpertLayer],
    attend: Attend,
    ropes: Sequence[Rope],
    masks: Sequence[Tensor | None],
    first: int,
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    """One layer of every expert at once. first: the first expert whose tokens go on; those before it only give keys and values."""
    outputs = list(inputs)
    hidden = [layer.input_layernorm(x) for layer, x in zip(layers, inputs, strict=True)]
    pairs = [layer.self_attn.keys_values(h, r) for layer, h, r in zip(layers, hidden, ropes, strict=True)]
    keys, values = (torch.cat(part, dim=2) for part in zip(*pairs, strict=True))
    seen = 0
    for e, (layer, x) in enumerate(zip(layers, inputs, strict=True)):
        seen += x.shape[1]
        if e >= first:
            q = layer.self_attn.queries(hidden[e], ropes[e])
            outputs[e] = layer.finish(x, attend(q, keys[:, :, :seen], values[:, :, :seen], masks[e]))
    return tuple(outputs)


@functools.cache
def compiled_layer() -> Callable[..., tuple[Tensor, ...]]:
    """`joint_layer` with its small operations fused, which are half of its time on a CPU. Layers of the same shapes share the code.

    Raises MissingDependencyError without the C++ compiler that torch.compile calls for a CPU.
    """
    from torch._inductor import config as inductor

    compilers = [name for name in inductor.cpp.cxx if name]
    if not torch.cuda.is_available() and not any(map(shutil.which, compilers)):
        install = "apt install g++; or do without: --set compile=false"
        raise MissingDependencyError(f"a C++ compiler ({', '.join(compilers)})", "training with `compile: true`", install)
    # the layers lie inside what DistributedDataParallel wraps: no graph of theirs is to be cut where a bucket of gradients is full
    torch._dynamo.config.optimize_ddp = False
    return torch.compile(joint_layer)


def joint_layers(
    mixture: Mixture, xs: list[Tensor], rope: Rope, mask: Tensor, want_und: bool, recompute: bool, compiled: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """`Mixture.joint` layer by layer, so that activations can be recomputed in the backward pass (gradient checkpointing).

    xs: tokens of the understanding, generation and action expert; without the last, nobody acts. Returns what leaves the last layer
    and what enters it, an entry for each expert.
    """
    experts = (mixture.und, mixture.gen, mixture.act)[: len(xs)]
    counts = [x.shape[1] for x in xs]
    masks = block_masks(mask, counts)
    narrow = xs[0].device.type
    if torch.is_autocast_enabled(narrow):  # else queries and keys become wide again
        rope = (rope[0].to(torch.get_autocast_dtype(narrow)), rope[1].to(torch.get_autocast_dtype(narrow)))
    ropes = list(zip(*(table.split(counts, dim=2) for table in rope), strict=True))
    last = len(mixture.und.layers) - 1
    one_layer = compiled_layer() if compiled else joint_layer
    before = xs
    for i in range(last + 1):
        before = xs
        layers = [expert.stack[i] for expert in experts]
        first = 1 if i == last and not want_und else 0  # the last und layer only gives keys and values
        through = functools.partial(one_layer, layers, mixture.attend, ropes, masks, first)
        xs = list(checkpoint(through, *xs, use_reentrant=False) if recompute else through(*xs))
    return xs, before


def joint_pass(
    model: InternVLAA1,
    batch: Mapping[str, Tensor],
    noise: Tensor,
    time: Tensor,
    latents: Tensor,
    want_und: bool,
    recompute: bool,
    compiled: bool = False,
) -> JointPass:
    """noise: (B, R, chunk, action_dim). time: (B, R), or (B, R, chunk) with 0 for steps that are known.

    latents: (B, V, 3, 16, h, w) of past, now and future frames.
    """
    inputs = read_batch(model.config, batch, model.device)
    layout = model.layout(inputs, published=False)
    draws, past = noise.shape[1], layout.past
    actions = batch["action"].to(model.device, torch.float32)
    flat_noise, flat_time = noise.flatten(0, 1), time.reshape(len(noise) * draws, -1)  # (B R, 1 or chunk)
    x_t, _ = noisy_actions(actions.repeat_interleave(draws, 0), flat_noise, flat_time)
    embedding = time_embedding(flat_time, model.config.act.hidden, model.config.min_period, model.config.max_period)
    tokens = model.action_head.embed(x_t, model.action_head.time_bias(embedding)).to(model.compute_dtype)
    state = model.embed_state(inputs).repeat_interleave(draws, 0)
    act = torch.cat([state, tokens], dim=1).unflatten(0, (-1, draws)).flatten(1, 2)
    middle = model.embed_middle(latents.flatten(0, 1)[layout.views][:, :2], layout)
    mask = drawn_mask(layout.block_mask(), past, draws)
    xs = [model.embed_prefix(inputs, layout), middle, act]
    (und, gen, out), entered = joint_layers(
        model.mixture, xs, drawn_rope((layout.cos, layout.sin), past, draws), mask, want_und, recompute, compiled
    )
    out = model.mixture.act.norm(out).unflatten(1, (draws, -1))[:, :, 1:]
    velocity = model.action_head.action_out_proj(out.float())
    rows = model.mixture.gen.norm(gen).reshape(layout.batch * len(layout.kept_views), -1, gen.shape[-1])[layout.gen_rows]
    predicted = model.latent_head.predict(rows, latents.flatten(0, 1)[layout.views][:, 1])
    return JointPass(layout, velocity, predicted, model.mixture.und.norm(und) if want_und else None, entered[1])


def view_balance(latents: Tensor) -> Tensor:
    """(B, V, 3, 16, h, w) of past, now and future -> (1, V, 1, 1): weights with which every view's changes count alike in this batch.

    A camera on the hand sees everything move, one on a post a few parcels: unweighted, the foresight loss is about the hand's.
    """
    change = (latents[:, :, 2] - latents[:, :, 1]).pow(2).mean((0, 2, 3, 4))
    mean = change.mean().clamp(min=1e-6)
    return (mean / torch.maximum(change, LEAST_CHANGE * mean)).view(1, -1, 1, 1)


def gen_weights(batch: Mapping[str, Tensor], latents: Tensor, loss: LossConfig) -> Tensor | None:
    """(B, V, h, w) of the latent errors as the configuration has them, None where all weigh alike."""
    weight = None
    if OBJECTS in batch:
        weight = 1 + loss.gen_object_weight * batch[OBJECTS]
    if loss.gen_balance:
        balance = view_balance(latents).expand(len(latents), -1, *latents.shape[-2:])
        weight = balance if weight is None else weight * balance
    return weight


def flow_parts(
    model: InternVLAA1,
    joint: JointPass,
    actions: Tensor,
    noise: Tensor,
    latents: Tensor,
    action_is_pad: Tensor | None = None,
    cell_weight: Tensor | None = None,
    known: Tensor | None = None,
) -> Parts:
    """`action`: squared velocity errors of the used action values; `gen`: squared latent errors of existing views.

    action_is_pad: (B, chunk) true for steps that do not count; None counts all, as published.
    cell_weight: (B, V, h, w) of the latent errors; None weighs all alike, as published.
    known: (B, R, chunk) true for steps that were given, of which there is nothing to learn.
    """
    used = model.config.used_action_dim
    target = (noise - actions[:, None])[..., :used]
    error = (joint.velocity[..., :used] - target) ** 2
    weight = torch.ones_like(error[..., :1])
    if action_is_pad is not None:
        weight = weight * (~action_is_pad)[:, None, :, None]
    if known is not None:
        weight = weight * (~known)[..., None]
    future = latents[:, :, 2].flatten(0, 1)[joint.layout.views]
    wrong = (joint.predicted - future) ** 2
    cells = torch.ones_like(wrong[:, :1]) if cell_weight is None else cell_weight.flatten(0, 1)[joint.layout.views][:, None]
    return {
        "action": ((error * weight).sum(), weight.sum() * used),
        "gen": ((wrong * cells).sum(), cells.sum() * wrong.shape[1]),
    }


class Scaled(nn.Module):
    """Adds weighted losses: each sum divided by its count over all processes, so that the split does not matter."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, parts: Parts, counts: Mapping[str, Tensor], world: int) -> tuple[Tensor, dict[str, Tensor]]:
        """counts: over all processes. Gradients of processes are averaged, hence the factor `world`."""
        total: Tensor | None = None
        means = {}
        for name, (value, _) in parts.items():
            mean = value * (world / counts[name].clamp(min=1.0))
            means[name] = mean.detach()
            weighted = self.weights.get(name, 1.0) * mean
            total = weighted if total is None else total + weighted
        if total is None:
            raise ValueError("a training pass without any loss")
        return total, means
