"""What all tests share: seeded random numbers, and hypothesis without deadlines on slow machines."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("secateur", deadline=None, derandomize=True, suppress_health_check=QUIET)
settings.register_profile("explore", deadline=None, suppress_health_check=QUIET)
torch.set_num_threads(1)  # the tensors are small, and test processes may run side by side
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "secateur"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
