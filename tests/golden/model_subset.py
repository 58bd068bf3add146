"""The part of the reference vectors that the repository carries, and how it is cut: python model_subset.py GOLDEN_FOLDER.

3B: masked view, weights without the image decoder and what nothing reads. 2B: masked view, weights without the image tokenizer and the
convolutions around it; its middle embeddings are taken from the vectors instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

DATA = Path(__file__).parent / "data"
CASE = "masked_view"
DROPPED = {
    "3b": ("_dec_model", "deepstack", "_arange"),
    "2b": ("cosmos_tokenizer", "lm_head", "upsample_conv", "downsample_conv"),
}
COMMON = (
    "actions", "act.v_step0", "act.v_at_0.37_train_noise", "act.x_t_steps", "act.time_steps", "act.position_ids",
    "act.out_step0", "act.attention_mask_bool", "und.embs", "und.out", "und.position_ids", "gen.embs", "gen.out",
    "gen.position_ids", "gen.attention_mask_bool", "cache.layer2.keys", "cache.layer2.values", "train.loss_action",
    "train.position_ids", "train.act_out", "train.und_out", "train.gen_out", "probe.time", "probe.time_embedding",
)  # fmt: skip
KEPT = {"3b": (*COMMON, "gen.pred_latents", "train.loss_gen", "train.policy_loss"), "2b": COMMON}


def cut(golden: Path) -> None:
    for variant in KEPT:
        source, target = golden / variant, DATA / variant
        target.mkdir(parents=True, exist_ok=True)
        weights = load_file(source / "model.safetensors")
        save_file({k: t for k, t in weights.items() if not any(part in k for part in DROPPED[variant])}, target / "model.safetensors")
        outputs = load_file(source / f"{CASE}.outputs.safetensors")
        save_file({k: outputs[k] for k in KEPT[variant]}, target / f"{CASE}.outputs.safetensors")
        for name in ("config.json", "tiny_config.json", f"{CASE}.inputs.safetensors"):
            (target / name).write_bytes((source / name).read_bytes())


if __name__ == "__main__":
    cut(Path(sys.argv[1]))
