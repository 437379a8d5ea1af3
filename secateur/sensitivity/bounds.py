"""SiPP's bound on the relative error of every neuron under a plan, and the error that is measured.

With the weights of one sign `W` and those that stay and their factors `W'`, a neuron's error on an example is the mean
over patches of `|W' a - W a| / |W a|`. Where the weights that leave have the sensitivities `s`, it is

    at most  sum of s           on the examples that the sensitivities are from, whatever stays as it is
    at most  C sum of s         on new ones, for weights that stay as they are     (deterministic)
    at most  e(alpha / (K m))   on new ones, for `m` weights that were drawn       (random; `neurons.py`)

the last two with a probability of `1 - delta`. A hybrid plan takes the smaller of both.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from secateur.graph.units import Groups
from secateur.planning import Plan
from secateur.sensitivity.neurons import random_error
from secateur.sensitivity.products import Examples, Product, reciprocal, signed, watch
from secateur.sensitivity.samples import CONSTANT
from secateur.sensitivity.sipp import Sampling, Sensitivities


def sipp_bound(scores: Sensitivities, plan: Plan) -> dict[str, Tensor]:
    """Parameter name -> the bound of every neuron for its negative and its positive weights, float64 `[neurons, 2]`.

    `scores` are those of `sipp` that `plan` was made from; a bound above 1 promises nothing.
    """
    terms, found = Sampling(scores.layers, scores.failure).terms, {}
    for name, (strength, rows, alpha, sizes) in terms.items():
        kept = plan.mask(name).numpy() & (strength > 0)
        count = np.bincount(rows, kept, minlength=len(sizes))
        dropped = CONSTANT * np.bincount(rows, np.where(kept, 0.0, strength), minlength=len(sizes))
        drawn = np.where(count >= sizes, 0.0, random_error(alpha, count.astype(float)))
        each = {"deterministic": dropped, "random": drawn, "hybrid": np.minimum(dropped, drawn)}[scores.variant]
        found[name] = torch.from_numpy(each).view(-1, 2)
    return found


def relative_errors(
    groups: Groups, scores: Sensitivities, plan: Plan, examples: Examples, *, samples: int | None = None
) -> dict[str, Tensor]:
    """Parameter name -> the largest error of every neuron over examples, beside `sipp_bound`: float64 `[neurons, 2]`.

    Every layer sees what it sees in the dense model. `samples` is how many examples are looked at, left out: as many
    as sensitivities are from.
    """
    weights = {member.name: groups.tensor(member.name) for g in groups for member in g.members}
    found = {name: torch.zeros(layer.neurons, 2, dtype=torch.float64) for name, (layer, _) in scores.layers.items()}
    factors = {name: _factors(plan, name, weights[name]) for name in found}

    def visit(product: Product) -> None:
        pruned = product._replace(weight=product.weight * factors[product.name][product.entries].to(product.weight))
        layer = scores.layers[product.name][0]
        rows = layer.neuron[product.entries[..., 0]].cpu().reshape(-1)
        for points in product.points:
            whole = signed(product) @ points
            apart = ((signed(pruned) @ points - whole).abs() * reciprocal(whole).abs()).mean(-1).double().cpu()
            positive, negative = (half.reshape(-1) for half in apart.chunk(2, dim=-1))
            found[product.name][rows] = torch.maximum(found[product.name][rows], torch.stack([negative, positive], 1))

    watch(groups.model, weights, examples, visit, samples=samples, failure=scores.failure)
    return found


def _factors(plan: Plan, name: str, weight: Tensor) -> Tensor:
    """What a plan multiplies every entry of a parameter by."""
    values = plan.mask(name).double()
    if name in plan.factors:
        values[plan.keep[name]] = plan.factors[name].double()
    return values.to(weight.device)
