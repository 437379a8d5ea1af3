"""Methods that prune during training, one paper a file; every one takes any removal policy and ends in a slim model."""

from secateur.methods.continuous_sparsification import ContinuousSparsification
from secateur.methods.cric import CRIC
from secateur.methods.dhspg import DHSPG
from secateur.methods.differentiable_sparsification import DifferentiableSparsification
from secateur.methods.dynamic_sparse import DynamicSparse
from secateur.methods.edge_popup import EdgePopup
from secateur.methods.gate_decorator import GateDecorator
from secateur.methods.gradual_magnitude import GradualMagnitude
from secateur.methods.group_sparse import GroupSparse
from secateur.methods.gumbel import Gumbel, Reading
from secateur.methods.hard_concrete import HardConcrete
from secateur.methods.hesso import HESSO
from secateur.methods.iterative import Iterative
from secateur.methods.prices import Aim, Climb, Constant, DualAscent, LogSchedule, Price, Projection, Ramp, Standing
from secateur.methods.prob_mask import ProbMask
from secateur.methods.pruner import Pruner
from secateur.methods.snapshots import Snapshot
from secateur.methods.soft_threshold import SoftThreshold
from secateur.methods.spred import Spred
from secateur.methods.story import Event, Story

__all__ = [
    "CRIC",
    "DHSPG",
    "HESSO",
    "Aim",
    "Climb",
    "Constant",
    "ContinuousSparsification",
    "DifferentiableSparsification",
    "DualAscent",
    "DynamicSparse",
    "EdgePopup",
    "Event",
    "GateDecorator",
    "GradualMagnitude",
    "GroupSparse",
    "Gumbel",
    "HardConcrete",
    "Iterative",
    "LogSchedule",
    "Price",
    "ProbMask",
    "Projection",
    "Pruner",
    "Ramp",
    "Reading",
    "Snapshot",
    "SoftThreshold",
    "Spred",
    "Standing",
    "Story",
]
