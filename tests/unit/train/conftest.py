"""What several files of training tests start from."""

import pytest
from train_made_up import config_of, write_demo

from internvla_a1.train.materials import make_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small data set in `demo`."""
    folder = tmp_path_factory.mktemp("place")
    write_demo(folder / "demo")
    return folder


@pytest.fixture(scope="module")
def model(place):
    """An untrained policy for it."""
    return make_model(config_of(place)).train()
