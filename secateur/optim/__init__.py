"""Optimizers and penalties that make networks prunable.

Gradient sampling stands in `stoch_grad_adam` (the paper's optimizer) and `sampling` (for any optimizer). The others are
methods for `secateur.training.fit`, one paper a file.
"""

from secateur.optim.cram import CrAM
from secateur.optim.factorised import Factorised
from secateur.optim.hoyer import Hoyer, effective_number
from secateur.optim.p_norm_decay import PNormDecay
from secateur.optim.powerprop import Powerprop
from secateur.optim.recorder import Recorder
from secateur.optim.sam import SAM
from secateur.optim.sampling import GradientSampler, sample_gradients, sampled, sampled_adamw, sampled_sgd
from secateur.optim.stoch_grad_adam import StochGradAdam, StochGradAdamW
from secateur.optim.var import VAR

__all__ = [
    "SAM",
    "VAR",
    "CrAM",
    "Factorised",
    "GradientSampler",
    "Hoyer",
    "PNormDecay",
    "Powerprop",
    "Recorder",
    "StochGradAdam",
    "StochGradAdamW",
    "effective_number",
    "sample_gradients",
    "sampled",
    "sampled_adamw",
    "sampled_sgd",
]
