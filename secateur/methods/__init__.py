"""Methods that prune during training, one paper a file; every one takes any removal policy and ends in a slim model."""

from secateur.methods.cric import CRIC
from secateur.methods.dhspg import DHSPG
from secateur.methods.gate_decorator import GateDecorator
from secateur.methods.group_sparse import GroupSparse
from secateur.methods.gumbel import Gumbel, Reading
from secateur.methods.hesso import HESSO
from secateur.methods.iterative import Iterative
from secateur.methods.prices import Aim, Constant, DualAscent, LogSchedule, Price, Projection, Ramp, Standing
from secateur.methods.pruner import Pruner
from secateur.methods.story import Event, Story

__all__ = [
    "CRIC",
    "DHSPG",
    "HESSO",
    "Aim",
    "Constant",
    "DualAscent",
    "Event",
    "GateDecorator",
    "GroupSparse",
    "Gumbel",
    "Iterative",
    "LogSchedule",
    "Price",
    "Projection",
    "Pruner",
    "Ramp",
    "Reading",
    "Standing",
    "Story",
]
