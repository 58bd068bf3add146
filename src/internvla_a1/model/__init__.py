"""InternVLA-A1 (arXiv 2601.02456): three experts, one attention, actions by flow matching.

    model = load_model(folder)                 # 3B, 2B or a tiny configuration of the same classes
    chunk = model.predict(batch, noise)        # Prediction: actions, and on request the predicted latents

Read in this order: config, layers, attention, masks, positions, layout, cache, mixture, vision_*, cosmos, heads, flow, denoiser,
inputs, network; then names, infer, precision, loading for weights and replay, verify for reference vectors.
"""

from internvla_a1.model.config import ModelConfig, tiny_config
from internvla_a1.model.loading import load_model, new_model, save_model
from internvla_a1.model.network import InternVLAA1, Prediction

__all__ = ["InternVLAA1", "ModelConfig", "Prediction", "load_model", "new_model", "save_model", "tiny_config"]
