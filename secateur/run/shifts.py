"""The parts of an evaluation that are no corruption: each a function from the evaluation to its row."""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from secateur.data.corruptions import corrupt
from secateur.data.corruptions.draws import Draws
from secateur.data.corruptions.linear import blurred
from secateur.data.pictures import Pictures
from secateur.data.prepare import WHITE
from secateur.measures.adversarial import Attack, Normalised, adversarial_right
from secateur.measures.answers import Answers
from secateur.measures.churn import worst
from secateur.measures.confidence import calibration, tempered
from secateur.measures.coverage import selective
from secateur.measures.damage import class_damage
from secateur.measures.distance import EPSILONS, Level, function_distance
from secateur.measures.features import backselect, backselect_by_gradient, cross_confidence
from secateur.measures.ood import detection
from secateur.measures.potential import prune_potential
from secateur.report.record import Row
from secateur.report.trust_record import (
    NOMINAL,
    AdversarialRow,
    BinRow,
    CalibrationRow,
    ClassRow,
    DetectionRow,
    FeaturesRow,
    LevelRow,
    ModelRow,
    NoiseRow,
    NominalRow,
    OodRow,
    WorstRow,
)
from secateur.run.evaluation import Evaluation
from secateur.run.quick import Network, scores
from secateur.run.sheets import accuracy_row, answers
from secateur.version import __version__

STRANGE = 2000
"""Images that are made where none from elsewhere are given."""
SHARE = 0.1
"""Of the pixels, the most informative ones that another network is shown."""


class Strange(Row):
    """All kinds of strange images."""

    kinds: tuple[OodRow, ...]


def nominal(made: Evaluation) -> NominalRow:
    """Calibration of every model and damage to every class, on the images as they are."""
    kept: dict[str, list[Tensor]] = {each.name: [] for each in made.subjects}
    found = made.answered(keep=lambda name, outputs: kept[name].append(outputs.cpu()))
    logits = {name: torch.cat(parts) for name, parts in kept.items()}
    if made.settings.probabilities:
        logits = {name: each.clamp_min(torch.finfo(each.dtype).tiny).log() for name, each in logits.items()}
    names = [each.name for each in made.subjects]
    classes = logits[names[0]].shape[1]
    labels, first = found[names[0]].labels, found[names[0]].predictions
    damaged = []
    for each in made.subjects:
        rows = class_damage(first, found[each.name].predictions, labels, classes) if each.role == "pruned" else []
        damaged.append(
            tuple(
                ClassRow(
                    label=row.label,
                    name=class_name(made.pictures, row.label),
                    images=row.images,
                    before=row.before,
                    after=row.after,
                    p_value=row.p_value,
                )
                for row in rows
            )
        )
    return NominalRow(
        calibration=tuple(_calibrated(found[name], logits[name]) for name in names), classes=tuple(damaged)
    )


def _calibrated(found: Answers, logits: Tensor) -> CalibrationRow:
    fits, order = calibration(found), selective(found.confidence, found.right)
    scaled, hot = tempered(logits, found.labels)
    after = calibration(scaled)
    return CalibrationRow(
        bins=tuple(BinRow(**asdict(each)) for each in fits.bins),
        ece=fits.ece,
        mce=fits.mce,
        nll=fits.nll,
        brier=fits.brier,
        temperature=hot,
        ece_after=after.ece,
        nll_after=after.nll,
        brier_after=after.brier,
        aurc=order.aurc,
        aurc_excess=order.excess,
    )


def class_name(pictures: Pictures, label: int) -> str:
    """What a class is called: its name where it has one, else its number."""
    return pictures.names[label] if pictures.names and label < len(pictures.names) else str(label)


def worst_rows(
    made: Evaluation, kind: str, severity: int, found: Mapping[str, Answers], number: int
) -> tuple[WorstRow, ...]:
    """The images that the dense model gets right and the most pruned one wrong, those first of which it is surest."""
    rows = made.rows()
    last = max((row for row in rows if row.role == "pruned"), key=lambda row: row.ratio).name
    dense, pruned = found[rows[0].name], found[last]
    places = worst(dense.predictions, pruned.predictions, dense.labels, pruned.confidence, number)
    numbers = made.shown(kind, severity)[0].numbers
    assert numbers is not None
    return tuple(
        WorstRow(
            kind=kind,
            severity=severity,
            model=last,
            index=int(numbers[place]),
            label=class_name(made.pictures, int(dense.labels[place])),
            answered=class_name(made.pictures, int(pruned.predictions[place])),
            confidence=float(pruned.confidence[place]),
            picture=portrait(made, kind, severity, place),
        )
        for place in places
    )


def portrait(made: Evaluation, kind: str, severity: int, place: int) -> str:
    """One picture as the models saw it, as a data URI of at most 96 pixels a side."""
    from PIL import Image

    (pictures, corruption), which = made.shown(kind, severity), slice(place, place + 1)
    assert pictures.numbers is not None
    white = pictures.white(pictures.images[which])
    if corruption != NOMINAL:
        white = corrupt(
            white,
            corruption,
            severity,
            strengths=made.strengths,
            seed=made.settings.seed,
            indices=pictures.numbers[which],
        )
    array = white[0].permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)
    image.thumbnail((96, 96))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def noise(made: Evaluation) -> NoiseRow:
    """The distance of every model from the dense one under noise, and what it does to the prune potential."""
    settings = made.settings
    pictures = made.pictures.some(settings.noise_images, settings.seed)
    names = [each.name for each in made.subjects]
    batches = (
        (pictures.normalised(pictures.shares(images)), labels, numbers)
        for images, labels, numbers in pictures.batches(settings.batch)
        if labels is not None
    )
    networks = dict(made.networks)
    if settings.probabilities:
        networks = {name: _logged(network) for name, network in networks.items()}
    others = {name: networks[name] for name in names[1:]}
    found = function_distance(networks[names[0]], others, batches, draws=settings.draws, seed=settings.seed)
    found = {names[0]: found.pop("dense"), **found}
    potentials = _noisy_potentials(found, made.rows(), settings.margin)
    return NoiseRow(
        epsilons=EPSILONS,
        draws=settings.draws,
        images=len(pictures),
        levels=tuple(tuple(map(_level, found[name])) for name in names),
        potential=tuple(float(each.mean()) for each in potentials),
        potential_deviation=tuple(float(each.std(correction=0)) for each in potentials),
    )


def _logged(network: Network) -> Network:
    """A network of scores whose softmax are the probabilities of this one."""

    def call(inputs: Tensor) -> Tensor:
        shares = network(inputs)
        return shares.clamp_min(torch.finfo(shares.dtype).tiny).log()

    return call


def _level(level: Level) -> LevelRow:
    right = torch.tensor(level.accuracies, dtype=torch.float64)
    values = {k: v for k, v in asdict(level).items() if k not in ("epsilon", "accuracies")}
    return LevelRow(**values, accuracy=float(right.mean()), accuracy_deviation=float(right.std(correction=0)))


def _noisy_potentials(found: Mapping[str, list[Level]], models: tuple[ModelRow, ...], margin: float) -> list[Tensor]:
    """The interpolated potential of every draw, at every level; nothing where no model lacks a parameter."""
    pruned = {row.ratio: row.name for row in models if row.role == "pruned" and row.ratio > 0}
    if not pruned:
        return []
    made = []
    for i, dense in enumerate(found[models[0].name]):
        rights = [found[name][i].accuracies for name in pruned.values()]
        draws = zip(dense.accuracies, *rights, strict=True)
        values = [
            prune_potential(list(pruned), [1 - one for one in own], 1 - first, margin=margin).interpolated
            for first, *own in draws
        ]
        made.append(torch.tensor(values, dtype=torch.float64))
    return made


def ood(made: Evaluation) -> Strange:
    """How well every model tells the images from strange ones."""
    strange = made.strange or synthetic(made.pictures, made.settings.seed)
    known = made.answered()
    found = []
    for name, pictures in strange.items():
        odd = answers(
            made.networks,
            Pictures(pictures.images, None, made.pictures.mean, made.pictures.std, pictures.peak),
            batch=made.settings.batch,
            probabilities=made.settings.probabilities,
        )
        msp = [_detection(known[n].confidence, odd[n].confidence) for n in known]
        energy = [None if made.settings.probabilities else _detection(known[n].energy, odd[n].energy) for n in known]
        found.append(OodRow(name=name, images=len(pictures), msp=tuple(msp), energy=tuple(energy)))
    return Strange(kinds=tuple(found))


def _detection(known: Tensor, strange: Tensor) -> DetectionRow:
    return DetectionRow(**asdict(detection(known, strange)))


def synthetic(like: Pictures, seed: int, number: int = STRANGE) -> dict[str, Pictures]:
    """Images of no object, in the shape of `like`: uniform noise, and blobs (noise blurred and cut at its middle).

    Both after Hendrycks and Gimpel (arXiv 1610.02136); the blur has a sixteenth of the shorter side.
    """
    draws = Draws.of(seed, "strange", 0, torch.arange(number, device=like.images.device))
    flat = draws.uniform(0, 1, *like.shape)
    soft = blurred(draws.normal(*like.shape), max(1.0, min(like.shape[1:]) / 16))
    blobs = (soft > soft.flatten(2).mean(dim=2).view(*soft.shape[:2], 1, 1)).float()
    made = {"uniform noise": flat, "blobs": blobs}
    return {
        name: Pictures((each * WHITE).round().to(torch.uint8), None, like.mean, like.std) for name, each in made.items()
    }


def adversarial(made: Evaluation) -> AdversarialRow:
    """Accuracy of every model on the images attacked against it."""
    settings = made.settings
    pictures = made.pictures.some(settings.attacked, settings.seed)
    attack = settings.adversary()
    right: list[list[Tensor]] = [[] for _ in made.subjects]
    for images, labels, _ in pictures.batches(settings.batch):
        shares = pictures.shares(images)
        assert labels is not None
        for own, each in zip(right, made.subjects, strict=True):
            network = Normalised(_plain(made, each.model), pictures.mean, pictures.std, shares.device)
            own.append(adversarial_right(network, shares, labels.long(), attack))
    rows = tuple(accuracy_row(torch.cat(own)) for own in right)
    steps = attack.steps if isinstance(attack, Attack) else None
    return AdversarialRow(kind=settings.attack, epsilon=attack.epsilon, steps=steps, accuracies=rows)


def features(made: Evaluation) -> FeaturesRow:
    """What the most informative pixels of each model tell the others."""
    pictures = made.pictures.some(made.settings.explained, made.settings.seed)
    assert pictures.labels is not None
    inputs = pictures.normalised(pictures.shares(pictures.images))
    networks = [_plain(made, each.model) for each in made.subjects]
    at_once = max(1, inputs[0, 0].numel() // 64)
    exact = made.settings.exact
    orders = [
        torch.stack([backselect(network, image) for image in inputs])
        if exact
        else backselect_by_gradient(network, inputs, at_once=at_once)
        for network in networks
    ]
    table = cross_confidence(networks, inputs, orders, pictures.labels.long(), share=SHARE)
    confidence = tuple(tuple(row) for row in table.tolist())
    return FeaturesRow(images=len(pictures), share=SHARE, confidence=confidence, exact=exact)


def _plain(made: Evaluation, model: torch.nn.Module) -> Network:
    """The scores of a model as it is, for gradients; the copies that answer fast have none."""
    still = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)

    def call(inputs: Tensor) -> Tensor:
        return scores(still(inputs))

    return _logged(call) if made.settings.probabilities else call


def versions() -> dict[str, str]:
    """What computed the numbers."""
    return {"secateur": __version__, "torch": metadata.version("torch")}


Part = tuple[type[Row], Callable[[Evaluation], Any], Callable[[Any], str]]
PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "noise": (NoiseRow, noise, lambda row: f"agreement {row.levels[-1][0].agreement:.1%} at no noise"),
        "ood": (Strange, ood, lambda row: ", ".join(f"{k.name} {k.msp[-1].auroc:.3f}" for k in row.kinds)),
        "adversarial": (
            AdversarialRow,
            adversarial,
            lambda row: f"{row.accuracies[0].value:.1%} → {row.accuracies[-1].value:.1%}",
        ),
        "features": (FeaturesRow, features, lambda row: f"{row.images} images"),
    }
)
"""Shifts that are no corruption: what they leave, how it is computed, and how it is told in a few words."""
