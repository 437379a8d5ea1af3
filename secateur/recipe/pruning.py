"""What a recipe removes, and how: a cut at one blow, or a method that lets units leave while the network trains."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any, Literal, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator, model_validator

from secateur import planning
from secateur.errors import InputError
from secateur.graph.units import Kind
from secateur.recipe.choices import (
    CRITERIA,
    FADING,
    IMMEDIATE,
    METHODS,
    SET_BY_PRUNING,
    SET_BY_REMOVAL,
    SET_BY_RUN,
    looks_at_data,
    parameters,
    require_known,
    require_options,
)
from secateur.recipe.parts import Part, default
from secateur.recipe.wrong import MisfitError, expected
from secateur.removal import Decay, Immediate, Rectify, Removal

KINDS: dict[str, Kind] = {"channels": "slices", "weights": "elements", "blocks": "blocks"}
"""The units of a recipe, as groups call them."""


class RectifyPart(Part):
    """Units that resist their decay are released (arXiv 2406.03879); null: none is."""

    rate: float = default(Rectify, "rate")
    """How far outward the steps of a released unit push, at least."""
    length: float = default(Rectify, "length")
    """How long they are beside those of the other units of its group, at least."""
    variant: Literal["both", "cosine", "by step", "product"] = default(Rectify, "variant")
    """What rate is: "both", "cosine", "by step", or "product", which looks at rate times length alone."""
    memory: float = default(Rectify, "memory")
    """Of the moving averages of both, in [0, 1)."""
    after: int = default(Rectify, "after")
    """Steps of decay before a unit can be released."""
    until: float = default(Rectify, "until")
    """Share of its decay after which a unit can no longer be released."""
    most: float = default(Rectify, "most")
    """Of the units that start to leave, the share that can be released at the most, those that resist most first."""
    releases: int = default(Rectify, "releases")
    """How often one unit can be released."""
    cooldown: int = default(Rectify, "cooldown")
    """Rounds of choosing that a released unit sits out."""

    @model_validator(mode="after")
    def _in_range(self) -> RectifyPart:
        self.rule()
        return self

    def rule(self) -> Rectify:
        """The rule of release."""
        return Rectify(**{name: getattr(self, name) for name in RectifyPart.model_fields})


class RemovalPart(Part):
    """How units leave; null: the method's own way, mostly at once."""

    name: str
    """immediate, decay (smooth pruning, arXiv 2406.03879), multiplicative (that of HESSO) or adaptive (decay at each
    group's own pace)."""
    steps: int | None = None
    """How many steps of the optimizer a unit takes, of adaptive at most; null for immediate alone."""
    side: Literal["producers", "both"] = default(Decay, "side")
    """What shrinks: what makes a unit's activation, or also the columns that read it."""
    rectify: RectifyPart | None = None
    """When a unit is released on its way; null: never."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of adaptive: mean, the share of the steps that units take on average, and least."""

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        return require_known(value, (IMMEDIATE, *FADING))

    @field_validator("options")
    @classmethod
    def _taken(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get("name", IMMEDIATE)
        if name == IMMEDIATE:  # or wrong, and told as such
            return given
        require_options(name, FADING[name], given, SET_BY_REMOVAL)
        hints = get_type_hints(FADING[name])
        typed = {option: _typed(option, value, hints[option]) for option, value in given.items()}
        FADING[name](1, **typed)
        return typed

    @model_validator(mode="after")
    def _complete(self) -> RemovalPart:
        if self.name != IMMEDIATE:
            if self.steps is None:
                raise InputError("must have the key 'steps'.")
            self.policy()
            return self
        for name in ("steps", "side", "rectify", "options"):
            if getattr(self, name) != RemovalPart.model_fields[name].get_default(call_default_factory=True):
                raise MisfitError(name, "must be left out: immediate removal takes one step.")
        return self

    def policy(self) -> Removal:
        """The removal policy, made anew: each serves one method."""
        if self.name == IMMEDIATE:
            return Immediate()
        assert self.steps is not None
        rule = self.rectify.rule() if self.rectify is not None else None
        return FADING[self.name](self.steps, rule, self.side, **self.options)


class MethodPart(Part):
    """Pruning while the fine-tuning goes on, by a method that chooses units and a way in which they leave."""

    name: str
    """iterative, group_sparse, dhspg, hesso, cric, gate_decorator or gumbel; for single weights also gradual_magnitude,
    hard_concrete, continuous_sparsification, str, dst, spred, differentiable_sparsification, prob_mask, edge_popup."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its own parameters, such as start, stop (shares of the fine-tuning) and rounds."""
    removal: RemovalPart | None = None
    """How units leave; null: the method's own way, mostly at once."""

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        return require_known(value, METHODS)

    @field_validator("options")
    @classmethod
    def _completed(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """All options of the method, those not given at the defaults of its class."""
        name = info.data.get("name")
        if name is None:  # wrong, and told as such
            return given
        require_options(name, METHODS[name], given, SET_BY_PRUNING)
        options = method_options(name)
        hints = get_type_hints(METHODS[name])
        options |= {option: _typed(option, value, hints[option]) for option, value in given.items()}
        METHODS[name].check_fields(options)
        return options

    @property
    def takes_criterion(self) -> bool:
        """Whether units are chosen by the recipe's criterion."""
        return "criterion" in parameters(METHODS[self.name])


def method_options(name: str) -> dict[str, Any]:
    """What a method of a recipe can be told, with the defaults of its class."""
    return {field.name: field.default for field in fields(METHODS[name]) if field.name not in SET_BY_PRUNING}


def _typed(option: str, value: Any, kind: Any) -> Any:
    """The value as the method's field has it. Raises `MisfitError` for one of another type."""
    try:
        found = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        told = expected(error.errors()[0])
        raise MisfitError(option, f"must be {told}. Got {value!r} instead.") from error
    return tuple(found) if isinstance(found, list) else found


class PruningPart(Part):
    """What is removed; null for a dense run, in which nothing is cut."""

    units: Literal["channels", "weights", "blocks"] = "channels"
    """channels (and heads) make a smaller model; weights and blocks set entries to zero."""
    block: tuple[int, int] = (4, 1)
    """Rows and columns of a block."""
    budget: str = "50% macs"
    """What remains: "50% macs", "2x macs", "1.2M params"; "10% weights" for weights and blocks."""
    rounds: int = Field(default=1, ge=1)
    """How many times it is cut and fine-tuned; each round keeps the same share, the last one meets the budget."""
    waypoints: tuple[float, ...] = ()
    """Instead of rounds: the shares of the dense model that are left after each but the last; [] for none."""
    steps: int = Field(default=1, ge=1)
    """How many cuts a round makes before it is fine-tuned, each by scores of its own."""
    criterion: str = "magnitude"
    """magnitude, filter_norm, norm_scale, taylor, snip, sipp, pfp or random."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the criterion."""
    shuffled: bool = False
    """Scores change places at random within every layer: as a control, a random mask of the same densities."""
    batches: int = Field(default=10, ge=1)
    """Batches of training data that a criterion with gradients looks at."""
    allocation: Literal["global", "local", "uniform", "own"] = default(planning.plan, "allocation")
    """global, one threshold; local, one share, then single steps; uniform, one share; own, what pfp and sipp bring."""
    round_to: int = Field(default=default(planning.plan, "round_to"), ge=1)
    """Widths are multiples of it."""
    minimum: float | None = Field(default=default(planning.plan, "minimum"), ge=0)
    """The least that stays of every group, a share or a number; null: 5 % of channels, one weight or block."""
    keep: tuple[str, ...] = default(planning.plan, "keep")
    """Modules, names, shell patterns or "re:..." of what stays whole."""
    verify: bool = True
    """Prove the cut."""
    method: MethodPart | None = None
    """Units leave while the fine-tuning goes on; null: they are cut before it."""

    @field_validator("budget")
    @classmethod
    def _readable(cls, value: str) -> str:
        planning.Budget.parse(value)
        return value

    @field_validator("criterion")
    @classmethod
    def _known(cls, value: str) -> str:
        return require_known(value, CRITERIA)

    @model_validator(mode="after")
    def _falls(self) -> PruningPart:
        """See that every waypoint leaves less than the one before, and the budget less than all of them."""
        if not self.waypoints:
            return self
        if self.rounds != PruningPart.model_fields["rounds"].default:  # a saved recipe names it as it is left out
            raise MisfitError("rounds", "must be left out: 'pruning.waypoints' says how many there are.")
        budget = planning.Budget.parse(self.budget)
        last = {"share": budget.amount / 100, "factor": 1 / budget.amount, "absolute": 0.0}[budget.form]
        line = (1.0, *self.waypoints, last)
        if any(after >= before for before, after in itertools.pairwise(line)):
            falling = f"shares in (0, 1) that fall, down to what '{self.budget}' leaves"
            raise MisfitError("waypoints", f"must be {falling}. Got {list(self.waypoints)!r} instead.")
        return self

    @model_validator(mode="after")
    def _units_fit(self) -> PruningPart:
        """See that SiPP scores weights, PFP and filter norms channels."""
        for names, units in ((("sipp",), ("weights", "blocks")), (("pfp", "filter_norm"), ("channels",))):
            if self.criterion in names and self.units not in units:
                named = f"must be {' or '.join(units)} for the criterion {self.criterion}"
                raise MisfitError("units", f"{named}. Got {self.units!r} instead.")
        return self

    @model_validator(mode="after")
    def _options_fit(self) -> PruningPart:
        require_options(self.criterion, CRITERIA[self.criterion], self.options, SET_BY_RUN)
        return self

    @model_validator(mode="after")
    def _shuffles_scores(self) -> PruningPart:
        """See that what is chosen depends on the scores that are shuffled."""
        if self.shuffled and self.allocation == "own":
            raise MisfitError("shuffled", "must be false where 'allocation' is 'own', which does not choose by scores.")
        return self

    @model_validator(mode="after")
    def _nothing_for_a_cut(self) -> PruningPart:
        """See that a method is not told what it has no use for."""
        if self.method is not None and (given := [name for name in self.unused if name in self.model_fields_set]):
            raise MisfitError(given[0], f"must be left out: the method {self.method.name} has no use for it.")
        if self.method is not None and self.allocation == "own":
            raise MisfitError("allocation", f"must not be 'own': the method {self.method.name} chooses in its own way.")
        scores = self.method is not None and self.method.takes_criterion and self.criterion != "taylor"
        if scores and looks_at_data(self.criterion):
            raise MisfitError("criterion", "must be 'taylor' or look at weights alone where a method prunes meanwhile.")
        return self

    @model_validator(mode="after")
    def _method_fits(self) -> PruningPart:
        """See that the method can prune such units."""
        if self.method is not None and KINDS[self.units] not in METHODS[self.method.name].takes:
            raise MisfitError(
                "units", f"must be weights for the method {self.method.name}. Got {self.units!r} instead."
            )
        return self

    @property
    def turns(self) -> int:
        """How many times it is cut and fine-tuned."""
        return len(self.waypoints) + 1 if self.waypoints else self.rounds

    def left(self, number: int, last: float) -> float:
        """The share of the dense model that is left after round `number`, 0 being none; the end leaves `last`."""
        if number == self.turns:
            return last
        if self.waypoints:
            return self.waypoints[number - 1] if number else 1.0
        return float(last ** (number / self.rounds))

    @property
    def unused(self) -> tuple[str, ...]:
        """The keys that the pruning has no use for: a method chooses by itself, in rounds of its own, and proves."""
        if self.method is None:
            return ()
        chooses = not self.method.takes_criterion
        options = chooses or self.criterion == "taylor"  # of the training's own steps, as a method has it
        return (
            "rounds",
            "waypoints",
            "steps",
            "shuffled",
            "batches",
            "verify",
            *["criterion"] * chooses,
            *["options"] * options,
        )
