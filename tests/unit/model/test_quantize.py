"""int8 layers and the gate in front of them."""

from __future__ import annotations

import weakref

import pytest
import torch
from model_helpers import small_model

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model import quantize as quantize_module
from internvla_a1.model.layers import Linear
from internvla_a1.model.quantize import Int8Linear, quantize_checked, quantize_rows


def test_rows_are_quantised_to_within_half_a_step() -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    values, scale = quantize_rows(x)
    assert values.dtype == torch.int8 and int(values.abs().max()) == 127
    assert float(((values * scale) - x).abs().max()) <= float(scale.max()) * 0.5001
    assert torch.equal(quantize_rows(torch.zeros(2, 4))[0], torch.zeros(2, 4, dtype=torch.int8))


def test_an_int8_layer_is_the_integer_product_scaled() -> None:
    torch.manual_seed(0)
    layer, x = Linear(64, 48).requires_grad_(False), torch.randn(2, 20, 64)
    quantised = Int8Linear(layer)
    values, scale = quantize_rows(x)
    exact = (values.long() @ quantised.weight.long().t()).double() * scale * quantised.scale + layer.bias
    assert torch.allclose(quantised(x).double(), exact, atol=1e-4)
    out = torch.empty(2, 20, 48)
    assert quantised(x, out) is out
    assert float((quantised(x) - layer(x)).abs().mean()) < 0.02


def test_weights_are_let_go_as_their_layers_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else both copies of the model would be in memory."""
    model = small_model("tiny", dtype="bfloat16")
    alive = [weakref.ref(m.weight) for root in (model.mixture, model.vision) for m in root.modules() if isinstance(m, Linear)]
    counts: list[int] = []

    class Counting(Int8Linear):
        def __init__(self, source: Linear) -> None:
            super().__init__(source)
            counts.append(sum(weight() is not None for weight in alive))

    monkeypatch.setattr(quantize_module, "Int8Linear", Counting)
    quantize_module.quantize(model)
    assert counts[0] > 40 and counts[-1] <= 4  # those of one attention or MLP


def test_a_model_within_the_bound_is_quantised_and_one_beyond_it_refused() -> None:
    kept = quantize_checked(small_model("tiny", dtype="bfloat16"), bound=0.5)
    assert isinstance(kept.mixture.act.layers[0].mlp.up_proj, Int8Linear)
    with pytest.raises(CheckpointError, match="the bound is 1e-06; use bfloat16"):
        quantize_checked(small_model("tiny", dtype="bfloat16"), bound=1e-6)
