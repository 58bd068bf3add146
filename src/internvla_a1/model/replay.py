"""Run a reference case and name every intermediate as the reference vectors do (golden README: und, gen, act, train, cache).

Two runs: the production path as users get it (dropped tokens, skipped tails, static buffers), and the same parts on every token with
every tail, because vectors also hold what nobody needs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from internvla_a1.model.flow import time_embedding
from internvla_a1.model.inputs import IMAGE, Inputs, read_batch
from internvla_a1.model.layout import Layout
from internvla_a1.model.masks import published_cached_mask, published_mask, sequence_blocks
from internvla_a1.model.network import InternVLAA1

Named = dict[str, Tensor]


def case_batch(case: Mapping[str, Tensor]) -> Named:
    """The tensors of a `<case>.inputs.safetensors` under the policy's keys."""
    batch = {"observation.state": case["state"], "action": case["actions"]}
    for view in range(case["images"].shape[1]):
        batch[f"{IMAGE}{view}"] = case["images"][:, view]
        batch[f"{IMAGE}{view}_mask"] = case["img_masks"][:, view]
    if "pixel_values" in case:
        names = {
            "input_ids": "lang_tokens",
            "attention_mask": "lang_masks",
            "pixel_values": "pixel_values",
            "image_grid_thw": "image_grid_thw",
        }
        return {**batch, **{f"observation.{key}": case[name] for key, name in names.items()}}
    return {**batch, "observation.language.tokens": case["lang_tokens"], "observation.language.attention_mask": case["lang_masks"]}


def replay(model: InternVLAA1, case: Mapping[str, Tensor], steps: int, probe_time: Tensor | None = None) -> Named:
    """Every output that a reference file may hold for this case."""
    case = {name: value.to(model.device) for name, value in case.items()}
    batch = case_batch(case)
    with torch.no_grad():
        inputs = read_batch(model.config, batch, model.device)
        found = _phases(model, inputs, case, steps)
        found |= _training(model, batch, inputs, case)
        found |= _production(model, batch, case, steps)
        if probe_time is not None:
            found["probe.time"] = probe_time
            found["probe.time_embedding"] = _embed_time(model, probe_time.to(model.device))
    return {name: value.cpu() for name, value in found.items()}


def valid_rows(model: InternVLAA1, case: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """prefix (B, P), middle (B, M) and views (B, V): which rows of the outputs mean something."""
    pattern = read_batch(model.config, case_batch(case), model.device).pattern
    middle = pattern.view_valid.repeat_interleave(2 * model.config.gen_tokens_per_frame, dim=1)
    return {"prefix": pattern.prefix_valid, "middle": middle, "views": pattern.view_valid}


def _embed_time(model: InternVLAA1, time: Tensor) -> Tensor:
    return time_embedding(time, model.config.act.hidden, model.config.min_period, model.config.max_period)


def _production(model: InternVLAA1, batch: Mapping[str, Tensor], case: Mapping[str, Tensor], steps: int) -> Named:
    prediction = model.predict(batch, case["noise"], num_steps=steps, foresight=True)
    assert prediction.latents is not None
    images = model.decode_foresight(prediction.latents)
    found = {"actions": prediction.padded_actions, "gen.pred_latents": prediction.latents}
    return {**found, "gen.recon_images": images[0]} if len(images) == 1 else found


def _positions(positions: Tensor) -> Tensor:
    """One row of numbers is published without its row axis."""
    return positions[0] if len(positions) == 1 else positions


def _phases(model: InternVLAA1, inputs: Inputs, case: Mapping[str, Tensor], steps: int) -> Named:
    """The three cached phases on every token, tails included."""
    layout = model.layout(inputs, model.compat == "published", drop=False)
    denoiser, mixture = model.denoiser(layout), model.mixture
    cache, prefix, past = denoiser.cache, len(layout.prefix), layout.past
    und = model.embed_prefix(inputs, layout)
    und_out = mixture.phase(mixture.und, und, layout.rope(0, prefix), cache, 0, layout.key_mask(prefix))
    latents = model.frame_latents(inputs, layout)
    gen = model.embed_middle(latents, layout)
    gen_out = mixture.phase(mixture.gen, gen, layout.rope(prefix, past - prefix), cache, prefix, layout.key_mask(past))
    state = model.embed_state(inputs)
    state_out = mixture.phase(mixture.act, state, layout.rope(past, 1), cache, past, layout.key_mask(past + 1))

    first = denoiser.time_bias(torch.ones(1, device=model.device), False)
    tokens = model.action_head.embed(case["noise"], first)
    rope, mask = (denoiser.cos, denoiser.sin), layout.key_mask(layout.length)
    actions_out = mixture.phase(mixture.act, tokens, rope, cache, past + 1, mask)
    assert und_out is not None and gen_out is not None and state_out is not None and actions_out is not None

    times: list[float] = []
    xs: list[Tensor] = []
    vs: list[Tensor] = []

    def record(velocity, x, t):  # type: ignore[no-untyped-def]
        v = velocity(x, t)
        times.append(t)
        xs.append(x.clone())
        vs.append(v.clone())
        return v

    denoiser.sample(case["noise"], steps, record)
    probe = denoiser.time_bias(torch.tensor([0.37], device=model.device), False)
    found = {
        "und.embs": und, "und.out": und_out, "gen.embs": gen, "gen.out": gen_out, "gen.cosmos_latents": model.all_views(latents, layout),
        "act.embs_step0": torch.cat([state, tokens], 1), "act.out_step0": torch.cat([state_out, actions_out], 1),
        "act.time_steps": torch.tensor(times), "act.x_t_steps": torch.stack(xs), "act.v_step0": vs[0], "act.v_last": vs[-1],
        "act.v_at_0.37_train_noise": denoiser.step(case["train_noise"], probe),
        "cache.seq_lengths": torch.full((steps + 1,), past),
    }  # fmt: skip
    cache.unpack()
    for layer in (0, model.config.layers - 1):
        found[f"cache.layer{layer}.keys"], found[f"cache.layer{layer}.values"] = (t.clone() for t in cache.slot(layer, 0, past))
    return found | _bookkeeping(layout)


def _bookkeeping(layout: Layout) -> Named:
    """Masks and positions as the published code builds them."""
    prefix, past, end = len(layout.prefix), layout.past, layout.length
    valid, blocks = layout.valid.cpu(), sequence_blocks(prefix, past - prefix, layout.chunk)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), blocks.diff()]).expand_as(valid)
    positions, found = layout.positions.cpu(), {}
    for name, (start, stop) in {"und": (0, prefix), "gen": (prefix, past), "act": (past, end)}.items():
        part = slice(start, stop)
        found[f"{name}.pad_masks"], found[f"{name}.att_masks"] = valid[:, part], starts[:, part]
        found[f"{name}.attention_mask_bool"] = published_cached_mask(valid[:, :start], valid[:, part], blocks[part])
        found[f"{name}.position_ids"] = _positions(positions[..., part])
    if len(positions) == 3:
        found["act.max_prefix_position_ids"] = positions[..., prefix:past].amax(-1, keepdim=True)
        found["und.rope_deltas"] = positions[..., :prefix].amax((0, 2))[:, None] + 1 - prefix
    return found


def _training(model: InternVLAA1, batch: Mapping[str, Tensor], inputs: Inputs, case: Mapping[str, Tensor]) -> Named:
    """The joint pass on every token, and the losses as a trainer gets them (on kept tokens)."""
    noise, time = case["train_noise"], case["train_time"]
    joint = model.joint_outputs(inputs, case["actions"], noise, time, drop=False, want_und=True)
    loss_action, loss_gen = model.losses(batch, noise, time)[:2]
    layout = joint.layout
    blocks = sequence_blocks(len(layout.prefix), len(layout.middle), layout.chunk)
    assert joint.und_out is not None
    found = {
        "train.und_out": joint.und_out, "train.gen_out": joint.gen_out, "train.act_out": joint.act_out,
        "train.act_embs": joint.act_embeddings,
        "train.pred_latents": joint.predicted_latents, "train.future_latents": joint.future_latents,
        "train.attention_mask_bool": published_mask(layout.valid.cpu(), blocks), "train.position_ids": _positions(layout.positions),
        "train.loss_action": loss_action, "train.loss_gen": loss_gen,
        "train.policy_loss": loss_action[..., : model.config.used_action_dim].mean() + model.config.lambda_gen * loss_gen,
    }  # fmt: skip
    if len(layout.positions) == 3:
        found["train.rope_deltas"] = layout.positions.amax((0, 2))[:, None] + 1 - layout.length
    return found
