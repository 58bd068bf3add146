"""Every backend computes what `reference` computes."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.model import attention


def inputs(batch: int = 2, heads: int = 6, kv: int = 2, rows: int = 5, keys: int = 9, size: int = 16) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    q = torch.randn(batch, heads, rows, size, generator=random)
    k, v = (torch.randn(batch, kv, keys, size, generator=random) for _ in range(2))
    mask = torch.rand(batch, 1, rows, keys, generator=random) > 0.4
    mask[..., 0] = True
    return q, k, v, mask


@pytest.mark.parametrize("name", ["products", "sdpa", "flex"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kv", [2, 6])
def test_a_backend_equals_reference(name: str, masked: bool, kv: int) -> None:
    q, k, v, mask = inputs(kv=kv)
    chosen = attention.choose(name, torch.device("cpu"), torch.float32)
    expected = attention.reference(q, k, v, mask if masked else None)
    assert torch.allclose(chosen(q, k, v, mask if masked else None), expected, atol=1e-5)


def test_reference_is_softmax_attention_written_out() -> None:
    q, k, v, mask = inputs(kv=6)
    scores = (q @ k.transpose(-1, -2)) / 4.0
    expected = torch.softmax(scores.masked_fill(~mask, -torch.inf), -1) @ v
    assert torch.allclose(attention.reference(q, k, v, mask), expected, atol=1e-6)


def test_buffers_change_nothing() -> None:
    q, k, v, _ = inputs()
    scores, out = torch.empty(4, 15, 9), torch.empty(4, 15, 16)
    assert torch.allclose(attention.reference(q, k, v, None, scores, out), attention.reference(q, k, v), atol=1e-6)


class StandIn(types.ModuleType):
    """flash_attn as documented: (batch, rows, heads, size), fewer key heads allowed, softmax_scale explicit."""

    def __init__(self) -> None:
        super().__init__("flash_attn")
        self.calls: list[tuple[int, ...]] = []

    def flash_attn_func(self, q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):  # type: ignore[no-untyped-def]
        assert dropout_p == 0.0 and causal is False
        self.calls.append(tuple(q.shape))
        group = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
        weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) * softmax_scale, -1)
        return torch.einsum("bhqk,bkhd->bqhd", weights, v)


def test_flash_attn_is_called_in_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself has not been run on a GPU here; this checks our side of its documented call."""
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    q, k, v, mask = inputs()
    flash = attention.choose("flash_attn", torch.device("cpu"), torch.float32)
    assert torch.allclose(flash(q, k, v, None), attention.reference(q, k, v), atol=1e-5)
    assert stand_in.calls == [(2, 5, 6, 16)]
    assert torch.allclose(flash(q, k, v, mask), attention.reference(q, k, v, mask), atol=1e-5)
    assert len(stand_in.calls) == 1, "a masked call must not go to flash_attn, which has no masks"


def test_a_missing_flash_attn_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(MissingDependencyError, match="flash-attn"):
        attention.choose("flash_attn", torch.device("cpu"), torch.float32)
    assert attention.choose("auto", torch.device("cuda"), torch.bfloat16) is attention.sdpa


def test_auto_takes_flash_attn_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", StandIn())
    assert attention.choose("auto", torch.device("cuda"), torch.bfloat16).__name__ == "flash"
    assert attention.choose("auto", torch.device("cuda"), torch.float32) is attention.sdpa
    assert attention.choose("auto", torch.device("cpu"), torch.float32) is attention.sdpa


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="reference, products, sdpa, flex, flash_attn"):
        attention.choose("eager", torch.device("cpu"), torch.float32)
