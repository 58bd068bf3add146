"""Real-time chunking on a flow whose velocity is known exactly: chunks are draws of a smooth Gaussian process."""

import math

import pytest
import torch
from torch import Tensor

from internvla_a1.core.errors import ConfigError
from internvla_a1.policy.rtc import Guidance, RtcSettings, committed_rows, guidance_weight, soft_mask

HORIZON, DIMS, STEPS = 24, 3, 10
torch.set_num_threads(1)


class SmoothFlow:
    """Chunks with mean `mean` and a squared-exponential covariance along time; one padding column of zeros at the end."""

    def __init__(self, mean: float = 0.0, length: float = 5.0) -> None:
        steps = torch.arange(HORIZON, dtype=torch.float64)
        self.covariance = torch.exp(-((steps[:, None] - steps) ** 2) / (2 * length**2)) + 1e-6 * torch.eye(HORIZON)
        self.mean = mean

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """E[noise - action | x_t]: (x - E[action | x_t]) / t."""
        mixed = (1 - t) ** 2 * self.covariance + t**2 * torch.eye(HORIZON)
        gain = ((1 - t) * self.covariance @ torch.linalg.inv(mixed)).to(x.dtype)
        action = self.mean + gain @ (x[..., :DIMS] - (1 - t) * self.mean)
        return torch.cat([(x[..., :DIMS] - action) / t, x[..., DIMS:] / t], dim=-1)

    def sample(self, seed: int, hook=None, steps: int = STEPS) -> Tensor:
        x = torch.randn(1, HORIZON, DIMS + 1, generator=torch.Generator().manual_seed(seed))
        for i in range(steps):
            t = 1 - i / steps
            v = self.velocity(x, t) if hook is None else hook(self.velocity, x, t)
            x = x - v / steps
        return x[0]


def test_the_mask_is_one_then_decays_to_zero_at_the_end_of_the_overlap() -> None:
    mask = soft_mask(10, frozen=3, overlap=7)
    c = torch.tensor([(7 - i) / (7 - 3 + 1) for i in range(3, 7)])
    assert (mask[:3] == 1).all() and (mask[7:] == 0).all()
    assert torch.allclose(mask[3:7], c * (c.exp() - 1) / (math.e - 1))
    assert (mask.diff() <= 0).all() and mask[3] < 1


@pytest.mark.parametrize(("frozen", "overlap"), [(0, 0), (0, 5), (5, 5), (5, 2), (12, 3), (10, 10), (99, 99), (-3, -1), (0, 99)])
def test_the_mask_never_rises_nor_leaves_zero_to_one(frozen: int, overlap: int) -> None:
    mask = soft_mask(10, frozen, overlap)
    assert mask.shape == (10,) and torch.isfinite(mask).all()
    assert (mask >= 0).all() and (mask <= 1).all() and (mask.diff() <= 0).all()
    assert (mask[: max(min(frozen, 10), 0)] == 1).all()


def test_the_weight_is_the_papers_and_never_above_its_limit() -> None:
    for t in (0.9, 0.5, 0.2):
        tau = 1 - t
        r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        assert guidance_weight(t, 1e9) == pytest.approx((1 - tau) / (tau * r2))
        assert guidance_weight(t, 1.5) == 1.5
    assert guidance_weight(1.0, 5.0) == 5.0
    assert guidance_weight(0.0, 5.0) == 5.0


@pytest.mark.parametrize("frozen", [1, 4, 8])
def test_committed_steps_are_kept_and_the_chunk_bends_away_without_a_jump(frozen: int) -> None:
    flow = SmoothFlow()
    jumps, free_jumps, kept = [], [], []
    for seed in range(20):
        old = flow.sample(100 + seed)
        target = torch.cat([old[4:], old[-1:].expand(4, -1)])  # the rest of the chunk before, on the new grid
        free = flow.sample(seed)
        new = flow.sample(seed, Guidance(target, soft_mask(HORIZON, frozen, HORIZON - 4), DIMS, float(STEPS)))
        kept.append((new[:frozen, :DIMS] - target[:frozen, :DIMS]).abs().max())
        jumps.append((new[frozen, :DIMS] - target[frozen - 1, :DIMS]).abs().max())
        free_jumps.append((free[frozen, :DIMS] - target[frozen - 1, :DIMS]).abs().max())
        assert (new.diff(dim=0).abs()[:, :DIMS] < 1.5).all()
    assert torch.stack(kept).max() < 0.15  # in units of the spread of the chunks
    assert torch.stack(jumps).mean() < 0.3 * torch.stack(free_jumps).mean()


def test_beyond_the_overlap_the_chunk_goes_its_own_way() -> None:
    flow = SmoothFlow(mean=2.0, length=2.0)
    target = torch.zeros(HORIZON, DIMS + 1)
    ends = [flow.sample(seed, Guidance(target, soft_mask(HORIZON, 3, 8), DIMS, float(STEPS)))[-4:, :DIMS].mean() for seed in range(20)]
    assert abs(float(torch.stack(ends).mean()) - 2.0) < 0.4


def test_no_committed_steps_change_nothing() -> None:
    flow = SmoothFlow()
    guided = flow.sample(1, Guidance(torch.ones(HORIZON, DIMS + 1), soft_mask(HORIZON, 0, 0), DIMS, float(STEPS)))
    assert torch.allclose(guided, flow.sample(1), atol=1e-6)


def test_padding_columns_are_not_guided() -> None:
    flow = SmoothFlow()
    target = torch.full((HORIZON, DIMS + 1), 9.0)
    guided = flow.sample(1, Guidance(target, soft_mask(HORIZON, HORIZON, HORIZON), DIMS, float(STEPS)))
    assert torch.allclose(guided[:, DIMS], flow.sample(1)[:, DIMS], atol=1e-6)


def test_a_delay_of_the_whole_horizon_and_more_keeps_every_step() -> None:
    flow = SmoothFlow()
    old = flow.sample(3)
    for frozen in (HORIZON, 10 * HORIZON):
        new = flow.sample(4, Guidance(old, soft_mask(HORIZON, frozen, HORIZON), DIMS, float(STEPS)))
        assert (new - old)[:, :DIMS].abs().max() < 0.15


def test_the_hook_leaves_no_gradient_behind_and_works_where_gradients_are_off() -> None:
    flow = SmoothFlow()
    hook = Guidance(torch.zeros(HORIZON, DIMS + 1), soft_mask(HORIZON, 2, 8), DIMS, 5.0)
    x = torch.randn(1, HORIZON, DIMS + 1)
    before = x.clone()
    with torch.no_grad():
        v = hook(flow.velocity, x, 0.5)
    assert not v.requires_grad and not x.requires_grad and torch.equal(x, before)


def test_committed_rows_are_laid_on_the_grid_of_the_new_chunk() -> None:
    rows = torch.tensor([[1.0], [2.0], [3.0]])
    for frozen, covered in ((0, 3), (2, 3), (5, 5), (9, 6)):
        laid, known = committed_rows(rows, 6, frozen)
        assert laid[:, 0].tolist() == [1, 2, 3, 3, 3, 3] and known == covered
    laid, known = committed_rows(rows, 2, 1)
    assert laid[:, 0].tolist() == [1, 2] and known == 2
    laid, known = committed_rows(rows[:0], 4, 2)
    assert laid.shape == (4, 1) and known == 0


@pytest.mark.parametrize("wrong", [{"max_guidance": 0.0}, {"max_guidance": math.nan}, {"max_guidance": math.inf}, {"soft_steps": -2}])
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        RtcSettings(**wrong)
