"""Muon: momentum made orthogonal for the matrices inside the network, AdamW for the rest."""

import pytest
import torch

from internvla_a1.core.errors import ConfigError
from internvla_a1.train.config import OptimConfig, TrainConfig, build
from internvla_a1.train.muon import Muon, orthogonal
from internvla_a1.train.schedule import optimizer


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
def test_an_orthogonal_step_keeps_the_directions_and_evens_out_how_far(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float(sizes.max() / sizes.min()) > 1.5
    made = orthogonal(torch.stack([matrix, torch.randn(shape)]))[0]
    along = left.T @ made @ right.T  # diagonal where the directions are kept
    assert made.dtype == torch.float32
    assert float((along - along.diag().diag()).abs().max()) < 0.1
    assert float(along.diag().min()) > 0.6 and float(along.diag().max()) < 1.3


def test_what_has_no_gradient_stays():
    assert not orthogonal(torch.zeros(2, 3, 4)).any()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in = torch.nn.Conv2d(3, 4, 3)
        self.inside = torch.nn.Conv2d(4, 4, 3)
        self.embed_tokens = torch.nn.Embedding(5, 4)


def test_matrices_and_kernels_inside_are_muons_and_all_else_is_adamws():
    net = Net()
    plain, muon = optimizer(net.named_parameters(), OptimConfig()), optimizer(net.named_parameters(), OptimConfig(lr=1e-3, muon=0.02))
    assert not isinstance(plain, Muon) and {g["scale"] for g in plain.param_groups} == {1.0}
    (group,) = (g for g in muon.param_groups if g["muon"])
    assert [id(p) for p in group["params"]] == [id(net.inside.weight)] and group["scale"] == pytest.approx(20.0)
    others = [p for g in muon.param_groups if not g["muon"] for p in g["params"]]
    assert len(others) == 4 and len({id(p) for p in others}) == 4


def test_one_step_moves_a_kernel_by_the_learning_rate_in_every_direction_and_leaves_the_groups_as_they_were():
    net = Net()
    steps = optimizer(net.named_parameters(), OptimConfig(lr=1e-3, muon=0.02, weight_decay=0.0))
    before, twin = net.inside.weight.detach().clone(), Net()
    twin.load_state_dict(net.state_dict())
    adamw = optimizer(twin.named_parameters(), OptimConfig(lr=1e-3, weight_decay=0.0))
    for model, used in ((net, steps), (twin, adamw)):
        model.inside(model.conv_in(torch.ones(1, 3, 8, 8))).square().sum().backward()
        for group in used.param_groups:
            group["lr"] = group["lr"] * group["scale"]
        used.step()
    moved = torch.linalg.svdvals((net.inside.weight.detach() - before).flatten(1))
    assert float(moved.max()) < 0.02 * 1.3
    assert len(steps.param_groups) == 3
    assert torch.equal(net.conv_in.weight, twin.conv_in.weight) and torch.equal(net.inside.bias, twin.inside.bias)


@pytest.mark.parametrize("optim, message", [({"muon": -0.1}, "not -0.1"), ({"muon": 0.1, "lr": 0.0}, "which must be above 0")])
def test_learning_rates_that_cannot_be_are_refused(optim, message):
    with pytest.raises(ConfigError, match=message):
        build(TrainConfig, {"out": "x", "optim": optim}, "test")
