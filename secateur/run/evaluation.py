"""An evaluation on its way: its settings, what its parts share, and the folder that keeps what is done."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from torch import Tensor

from secateur.data.pictures import Pictures
from secateur.errors import CheckpointError, InputError
from secateur.files import atomic_write
from secateur.folder import differences
from secateur.measures.adversarial import Attack
from secateur.measures.answers import Answers
from secateur.measures.attack_libraries import LibraryAttack
from secateur.measures.cost import size
from secateur.report.record import Row
from secateur.report.trust_record import NOMINAL, ModelRow
from secateur.run.progress import Progress, Stage, told
from secateur.run.quick import Network
from secateur.run.sheets import answers
from secateur.run.subjects import Subject, fingerprint
from secateur.version import __version__

Value = TypeVar("Value", bound=BaseModel)

CLOCK = "clock.json"


@dataclass(frozen=True)
class Settings:
    """What an evaluation looks at, and how closely.

    `severities`: of the corruptions; `strengths`: "cifar", "imagenet", "mnist", or None for what fits the images;
    `margin`: the error that a prune potential allows; `draws` and `noise_images`: of the noise; `attacked` and
    `explained`: images attacked and images whose pixels are ranked; `attack`: "apgd", "pgd" or one of another package
    ("torchattacks:AutoAttack"), `epsilon`: its bound; `exact`: pixels are ranked by BackSelect as defined, which takes
    half a million calls an image of 32x32; `compile`: whether copies of the networks are compiled, which changes the
    time only.
    """

    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    strengths: str | None = None
    margin: float = 0.005
    draws: int = 10
    noise_images: int = 1000
    attacked: int = 500
    attack: str = "apgd"
    epsilon: float = 8 / 255
    explained: int = 64
    seed: int = 0
    batch: int = 250
    probabilities: bool = False
    exact: bool = False
    compile: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        for name in ("draws", "noise_images", "attacked", "explained", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"The {name!r} of an evaluation must be a positive int. Got {getattr(self, name)!r}.")
        if not 0 <= self.margin < 1:
            raise InputError(f"The 'margin' of an evaluation must be a float in [0, 1). Got {self.margin!r} instead.")
        self.adversary()

    def adversary(self) -> Attack | LibraryAttack:
        """The attack that is asked for; raises `InputError` where there is none of that name."""
        if ":" in self.attack:
            return LibraryAttack(self.attack, self.epsilon, seed=self.seed)
        return Attack(self.epsilon, kind=self.attack, seed=self.seed)  # type: ignore[arg-type] # it looks itself

    def identity(self) -> dict[str, Any]:
        """What decides the numbers: all but how fast they come, and which severities are asked for."""
        values = asdict(self)
        for name in ("compile", "batch", "severities"):
            values.pop(name)
        if self.attack == "apgd":  # evaluations begun before there were others go on
            values.pop("attack")
        return values


Metric = Callable[[Tensor, Tensor], float]
"""From predictions and labels, int64 [images], to a number that should be large."""


@dataclass(frozen=True, eq=False)
class Further:
    """What an evaluation looks at beyond its own images and accuracy.

    `shifts`: other labelled images by name and severity, each read when its turn comes; `metrics` by name; `nets`: the
    same models of further trainings, each a dense one with its pruned ones.
    """

    shifts: Mapping[tuple[str, int], Callable[[], Pictures]] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    nets: Sequence[Sequence[Subject]] = ()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation on its way: what its parts share."""

    subjects: list[Subject]
    pictures: Pictures
    settings: Settings
    folder: Path
    progress: Progress
    strengths: str
    strange: dict[str, Pictures]
    networks: dict[str, Network] = field(default_factory=dict)
    computed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    further: Further = field(default_factory=Further)
    read: dict[tuple[str, int], Pictures] = field(default_factory=dict)
    known: dict[str, Answers] = field(default_factory=dict)

    def shown(self, kind: str, severity: int) -> tuple[Pictures, str]:
        """The pictures of a shift and the corruption that they get: other images are taken as they are."""
        place = (kind, severity)
        if place not in self.further.shifts:
            return self.pictures, kind
        if place not in self.read:
            self.read.clear()  # one set in memory
            self.read[place] = self.further.shifts[place]().to(self.pictures.images.device)
        return self.read[place], NOMINAL

    def rows(self) -> tuple[ModelRow, ...]:
        """The models as a record tells them, the dense one first."""
        dense = size(self.subjects[0].model).nonzero
        return tuple(each.row(dense, self.computed.get(each.name, "")) for each in self.subjects)

    def part(self, name: str, kind: type[Value], compute: Callable[[], Value]) -> Value:
        """What a part left when it was done, or what `compute` gives, which is left for the next time."""
        path = self.folder / f"{name}.json"
        if path.exists():
            try:
                return kind.model_validate_json(path.read_text(encoding="utf-8"))
            except (ValidationError, OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"The result {path} is damaged. Remove it and evaluate again.") from error
        value = compute()
        with atomic_write(path) as partial:
            partial.write_text(value.model_dump_json(), encoding="utf-8")
        return value

    def answered(
        self, kind: str = NOMINAL, severity: int = 0, keep: Callable[[str, Tensor], None] | None = None
    ) -> dict[str, Answers]:
        """What all networks say under one shift; about the images as they are they are asked once, unless to `keep`."""
        if kind == NOMINAL and self.known and keep is None:
            return self.known
        settings = self.settings
        pictures, corruption = self.shown(kind, severity)
        found = answers(
            self.networks, pictures, batch=settings.batch, kind=corruption, severity=severity, keep=keep,
            strengths=self.strengths, seed=settings.seed, probabilities=settings.probabilities,
        )  # fmt: skip
        if kind == NOMINAL:
            self.known.update(found)
        return found


@contextmanager
def timed(made: Evaluation, name: str) -> Iterator[Stage]:
    """A block that is one stage of the evaluation: shown, and its time added to that of earlier calls."""
    with told(made.progress, name) as stage:
        yield stage
    made.seconds[name] = round(made.seconds.get(name, 0.0) + stage.seconds, 3)
    with atomic_write(made.folder / CLOCK) as partial:
        partial.write_text(json.dumps(made.seconds), encoding="utf-8")


class Owner(Row):
    """What the kept results belong to."""

    models: dict[str, str]
    roles: dict[str, str]
    data: str
    images: int
    settings: dict[str, Any]
    version: str = __version__


def own(made: Evaluation, data: str) -> None:
    """See that the results kept in the folder belong to these models, images and settings; take an empty folder."""
    owner = Owner(
        models={each.name: fingerprint(each.model) for each in made.subjects},
        roles={each.name: each.role for each in made.subjects},
        data=f"{data} {checksum(made.pictures)}",
        images=len(made.pictures),
        settings={
            **made.settings.identity(),
            "strengths": made.strengths,
            "metrics": sorted(made.further.metrics),
        },
    )
    path = made.folder / "owner.json"
    if not path.exists():
        with atomic_write(path) as partial:
            partial.write_text(owner.model_dump_json(), encoding="utf-8")
        return
    try:
        stored = Owner.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"The result {path} is damaged. Remove {made.folder} and evaluate again.") from error
    differing = differences(stored.model_dump(mode="json"), owner.model_dump(mode="json"))
    if differing:
        raise InputError(
            f"The folder {made.folder} holds another evaluation. These differ: {', '.join(differing[:5])}"
            f"{', ...' if len(differing) > 5 else ''}. Name another folder, or remove it."
        )
    with suppress(OSError, ValueError, TypeError):  # times are told, and decide nothing
        made.seconds.update({str(k): float(v) for k, v in json.loads((made.folder / CLOCK).read_text()).items()})


def checksum(pictures: Pictures) -> str:
    """A few characters that tell one set of images from another."""
    assert pictures.labels is not None
    images = zlib.crc32(pictures.images.cpu().numpy().tobytes())
    return f"{zlib.crc32(pictures.labels.cpu().numpy().tobytes(), images):08x}"
