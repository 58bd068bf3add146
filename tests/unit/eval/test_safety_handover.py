"""The figures of takeover and give-back at random moments hold, and show it when a guard is missing."""

from __future__ import annotations

import pytest

from internvla_a1.control import gate
from internvla_a1.control.supervisor import Supervisor
from internvla_a1.eval.safety_handover import handover_figures


def test_takeover_and_give_back_at_random_moments_keep_their_promises() -> None:
    for figure in handover_figures(moments=20):
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"


def missed() -> list[str]:
    return [f.what for f in handover_figures(moments=8) if not f.ok]


def test_an_older_chunk_that_is_let_pass_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    admit = gate.ChunkGate.admit
    monkeypatch.setattr(gate.ChunkGate, "admit", lambda self, chunk, now, _: admit(self, chunk, now, -(2**62)))
    what = " ".join(missed())
    assert "accepted after it" in what and "an older chunk ran" in what


def test_a_takeover_that_does_not_come_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "takeover", lambda self: False)
    assert any("to authority" in what for what in missed())
