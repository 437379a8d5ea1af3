"""Training: one loop, the moments at which methods take part in it, and resuming to the same result.

>>> from functools import partial
>>> from torch.optim import SGD
>>> from secateur.training import fit
>>> history = fit(model, data, epochs=30, optimizer=partial(SGD, lr=0.01, momentum=0.9))
"""

from secateur.training.batch_norm import reestimate_batch_norm
from secateur.training.history import Epoch, History
from secateur.training.loop import fit
from secateur.training.moments import MOMENTS, Method, Moments
from secateur.training.settings import Training
from secateur.training.state import State

__all__ = ["MOMENTS", "Epoch", "History", "Method", "Moments", "State", "Training", "fit", "reestimate_batch_norm"]
