"""The Triton kernels against the plain layers, in Triton's interpreter. On a real device: tests/gpu."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_kernels_in_the_interpreter() -> None:
    """In a process of its own: triton decides when it is imported whether kernels are interpreted, and torch may have imported it."""
    pytest.importorskip("triton")
    cases = Path(__file__).with_name("interpreted_cuda_kernels.py")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", str(cases)], cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"}, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-3000:]
