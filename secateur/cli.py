"""The command line: verbs named after what a person wants. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from secateur.errors import InputError, SecateurError
from secateur.explaining import explain_run

if TYPE_CHECKING:
    from secateur.recipe import Recipe, Written
    from secateur.report import RunRecord

app = typer.Typer(
    name="secateur",
    help="Make a trained PyTorch network smaller and faster, and prove what it cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
recipes = typer.Typer(
    help="Look at recipes, check them, and copy those that come with the package.", no_args_is_help=True
)
app.add_typer(recipes, name="recipe")

INTERRUPTED = 130
Verb = TypeVar("Verb", bound=Callable[..., Any])

Model = Annotated[
    str,
    typer.Argument(
        help="zoo:NAME, torchvision:NAME, timm:NAME, transformers:CLASS or path/to/file.py:function", show_default=False
    ),
]
RecipeName = Annotated[
    str, typer.Argument(help="A file in YAML, or the name of a recipe of the package.", show_default=False)
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Any key of the recipe, such as training.epochs=5; repeat.")
]
Made = Annotated[
    Path, typer.Argument(help="A folder that 'secateur run', 'prune' or 'quickstart' left.", show_default=False)
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder with the data set's published files; SECATEUR_DATA if left out.")
]


def main() -> None:
    """Run the command line on the program's arguments; `--debug` may stand anywhere."""
    arguments = sys.argv[1:]
    guard.debug = "--debug" in arguments
    app([argument for argument in arguments if argument != "--debug"])


class Guard:
    """Turns errors a user can mend into one red line and exit code 2; with `debug` they keep their traceback."""

    debug = False

    def __call__(self, verb: Verb) -> Verb:
        """The verb, guarded."""

        @functools.wraps(verb)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            from secateur import console

            try:
                return verb(*args, **kwargs)
            except BrokenPipeError:  # the reader, such as `head`, has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(0) from None
            except (SecateurError, OSError) as error:
                if self.debug:
                    raise
                console.tell_error(str(error))
                raise typer.Exit(2) from None
            except KeyboardInterrupt:
                console.tell_error("Stopped. The same command goes on from here.")
                raise typer.Exit(INTERRUPTED) from None

        return guarded  # type: ignore[return-value]


guard = Guard()


@app.callback()
def shared(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Make a trained PyTorch network smaller and faster, and prove what it cost."""
    guard.debug = guard.debug or debug


@app.command()
@guard
def quickstart(
    out: Annotated[Path, typer.Option(help="Where the report, the checkpoint and the numbers go.")] = Path(
        "secateur-quickstart"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training before the cut.")] = 12,
    fine_tune: Annotated[int, typer.Option(min=0, help="Epochs of training after the cut.")] = 8,
    budget: Annotated[str, typer.Option(help="What remains.")] = "50% macs",
) -> None:
    """Train a small network on handwritten digits, prune it to half its MACs, prove the cut and report. No download."""
    from secateur import console
    from secateur.recipe import Written

    recipe = {
        "model": {"spec": "zoo:resnet8"},
        "data": {"name": "digits"},
        "pruning": {"budget": budget},
        "training": {"epochs": epochs},
        "fine_tuning": {"epochs": fine_tune, "lr": 0.03},
        "measures": {"batch": 64},
    }
    carry_out(Written({**recipe, "out": str(out)}))
    console.out.print("\nWhat next?")
    console.tell_places(
        [
            ("look", f"secateur report {out} --open"),
            ("check", f"secateur evaluate {out}"),
            ("inspect", "secateur inspect torchvision:resnet50"),
            ("your own", "secateur prune path/to/file.py:function --data cifar10 --weights FILE --out DIR"),
            ("recipes", "secateur recipe list"),
        ]
    )


@app.command("inspect")
@guard
def inspect_model(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    example: Annotated[str | None, typer.Option(help="Shape of an input with its batch, such as 1x3x224x224.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Batch of the example; MACs are those of one call.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Outputs of the model.")] = None,
) -> None:
    """Show what can be pruned of a model, what it would free, and what cannot be pruned and why."""
    from secateur import console, inspection

    with console.stages() as progress:
        progress.begin("look at the model")
        groups = _groups_of(model, example, batch, classes)
        found = inspection.described(model, groups)
        if not as_json:
            console.out.print(inspection.tables(found))
    if as_json:
        print(json.dumps(found, indent=1))


def _groups_of(model: str, example: str | None, batch: int | None, classes: int | None) -> Any:
    import torch

    from secateur import groups, zoo
    from secateur.building import on_device

    shape = _shape(example)
    source = zoo.resolve(model, classes=classes, shape=shape[1:] if shape else None)
    size = batch or (shape[0] if shape else None)
    return groups(source.build().eval(), on_device(source.example, torch.device("cpu"), size))


def _shape(given: str | None) -> tuple[int, ...] | None:
    if given is None:
        return None
    sizes = given.lower().replace("×", "x").split("x")
    if len(sizes) < 2 or not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
        raise InputError(
            f"The '--example' option must be a shape with its batch, such as 1x3x224x224. Got {given!r} instead."
        )
    return tuple(int(size) for size in sizes)


@app.command()
@guard
def prune(
    model: Annotated[
        str | None,
        typer.Argument(help="zoo:NAME, torchvision:NAME, timm:NAME, transformers:CLASS or path/to/file.py:function"),
    ] = None,
    data: Annotated[str | None, typer.Option(help="digits, mnist, cifar10, breast_cancer, ...")] = None,
    weights: Annotated[str | None, typer.Option(help="A .safetensors, .pth, .th, .pt or .bin file.")] = None,
    budget: Annotated[
        str | None, typer.Option(help='What remains, half the MACs if left out: "2x macs", "40% macs", "1.2M params".')
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the report, the checkpoint and the numbers go.")] = None,
    fine_tune: Annotated[int | None, typer.Option(min=0, help="Epochs of training after the cut.")] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Epochs of training before the cut.")] = None,
    criterion: Annotated[str | None, typer.Option(help="magnitude, taylor, sipp, pfp or another of the docs")] = None,
    units: Annotated[str | None, typer.Option(help="channels, weights or blocks")] = None,
    allocation: Annotated[str | None, typer.Option(help="global, local, uniform or own")] = None,
    round_to: Annotated[int | None, typer.Option(min=1, help="Widths are multiples of it; 1 for any width.")] = None,
    method: Annotated[
        str | None, typer.Option(help="Prunes during the fine-tuning: iterative, group_sparse, dhspg, hesso, ...")
    ] = None,
    removal: Annotated[
        str | None, typer.Option(help="How units leave under a method: immediate, decay, multiplicative or adaptive")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of training that a removal takes.")] = None,
    rectify: Annotated[bool, typer.Option("--rectify", help="Release units that resist their removal.")] = False,
    keep: Annotated[list[str] | None, typer.Option(help="A module, name or pattern that stays whole; repeat.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the fine-tuning.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay of the fine-tuning.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in a batch of training.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16")] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Outputs of the model; the data set's if left out.")
    ] = None,
    data_root: DataRoot = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation of the weights, e.g. 0.485,0.456,0.406")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation of the weights, e.g. 0.229,0.224,0.225")] = None,
    validation: Annotated[float | None, typer.Option(help="Share of train held out; 0 with given weights.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every random draw.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe in YAML; the other options change it.")] = None,
    change: Changes = None,
) -> None:
    """Prune a network to a budget, prove the cut, fine-tune, measure, and report. A killed run goes on where it was."""
    root = str(data_root) if data_root else None
    given: dict[str, Any] = {
        "model.spec": model, "data.name": data, "model.weights": weights, "pruning.budget": budget,
        "out": str(out) if out else None, "fine_tuning.epochs": fine_tune, "training.epochs": epochs,
        "pruning.criterion": criterion, "pruning.units": units, "pruning.allocation": allocation,
        "pruning.method.name": method, "pruning.method.removal.name": removal, "pruning.method.removal.steps": steps,
        "pruning.method.removal.rectify": {} if rectify else None, "pruning.round_to": round_to,
        "pruning.keep": keep or None, "fine_tuning.lr": lr,
        "fine_tuning.weight_decay": weight_decay, "data.batch_size": batch_size, "training.precision": precision,
        "fine_tuning.precision": precision, "model.classes": classes, "data.root": root,
        "data.mean": _numbers("mean", mean), "data.std": _numbers("std", std), "data.validation": validation,
        "device": device, "seed": seed,
    }  # fmt: skip
    written = _written(recipe, {key: value for key, value in given.items() if value is not None}, change)
    for part, what, such in (("model", "'MODEL' argument", "zoo:resnet56"), ("data", "'--data' option", "cifar10")):
        _require(written, part, f"The {what} of prune must be given, such as {such}, or a --recipe that has it.")
    _require(written, "out", "The '--out' option of prune must be given: a folder for the report and the checkpoint.")
    carry_out(written)


@app.command("run")
@guard
def run_recipe(
    recipe: RecipeName,
    out: Annotated[Path | None, typer.Option(help="Where the report, the checkpoint and the numbers go.")] = None,
    change: Changes = None,
) -> None:
    """Carry out a recipe: train or load, prune, fine-tune, measure, report. What was done already is not done again.

    A recipe with several seeds is one run each, in folders seed0, seed1, ... below the one given.
    """
    written = _written(recipe, {"out": str(out)} if out else {}, change)
    _require(written, "out", "The '--out' option of run must be given: a folder for the report and the checkpoint.")
    carry_out(written)


@recipes.command("show")
@guard
def show_recipe(recipe: RecipeName, change: Changes = None) -> None:
    """Print a recipe with every default written out and what each key means."""
    from secateur.recipe import Recipe
    from secateur.recipe.shown import shown

    print(shown(Recipe.written(_written(recipe, {}, change))), end="")


@recipes.command("validate")
@guard
def validate_recipe(recipe: RecipeName, change: Changes = None) -> None:
    """Say what a recipe would do, or what is wrong with it and where."""
    from secateur.recipe import Recipe
    from secateur.recipe.shown import summary

    print(f"{recipe}: {summary(Recipe.written(_written(recipe, {}, change)))}")


@recipes.command("copy")
@guard
def copy_recipe(
    name: Annotated[str, typer.Argument(help="A recipe that 'secateur recipe list' tells.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Where to; it must not exist.", show_default=False)],
) -> None:
    """Copy a recipe that comes with the package, to be changed."""
    from secateur import console
    from secateur.recipe import shipping

    console.tell_places([("recipe", shipping.copy(name, file)), ("run", f"secateur run {file} --out DIR")])


@recipes.command("list")
@guard
def list_recipes() -> None:
    """Tell the recipes that come with the package."""
    from secateur import console
    from secateur.recipe import shipping

    console.tell_places(list(shipping.names().items()))


def _written(recipe: str | None, given: dict[str, Any], changes: list[str] | None) -> Written:
    """A recipe's values: its file's, changed by options, changed by `--set`; each remembers where it was written."""
    from secateur.recipe import Written, shipping

    written = shipping.read(recipe) if recipe is not None else Written({})
    for key, value in given.items():
        written = written.changed(key, value, "given as an option")
    for change in changes or []:
        written = written.set(change)
    return written


def _require(written: Written, key: str, otherwise: str) -> None:
    """Raise an error that says `otherwise` if a recipe, being a mapping, lacks a key."""
    if isinstance(written.values, dict) and key not in written.values:
        raise InputError(otherwise)


def _numbers(name: str, given: str | None) -> list[float] | None:
    if given is None:
        return None
    try:
        return [float(number) for number in given.replace(",", " ").split()]
    except ValueError:
        raise InputError(
            f"The '--{name}' option must be numbers, one a channel, such as 0.5,0.5,0.5. Got {given!r} instead."
        ) from None


def carry_out(written: Written) -> None:
    """Run a recipe with its stages in view, and tell what came out."""
    from secateur import console
    from secateur.recipe import Recipe

    recipe = Recipe.written(written)
    assert recipe.out is not None
    if len(recipe.seeds) == 1:
        console.tell_result(_run(recipe), Path(recipe.out))
        return
    records = []
    for seed in recipe.seeds:
        place = Path(recipe.out) / f"seed{seed}"
        records.append(_run(recipe.model_copy(update={"seed": seed, "out": str(place)})))
        console.tell_result(records[-1], place)
    console.tell_spread(records)


def _run(recipe: Recipe) -> RunRecord:
    from secateur import console
    from secateur.run import run

    with console.stages() as progress:
        return run(recipe, progress)


@app.command()
@guard
def evaluate(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder that 'secateur run' or 'prune' left.", show_default=False)
    ] = None,
    data_root: DataRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    shifts: Annotated[
        str | None,
        typer.Option(
            help="What pruning broke: corruptions, noise, ood, adversarial, features, one corruption such as fog, or "
            "published files: cifar10-c, cifar10.1, mnist-c; separated by commas. "
            "'nominal' looks at the images as they are alone."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Without a run: what --dense and --pruned are weights of.")] = None,
    data: Annotated[str | None, typer.Option(help="Without a run: the data set, or 'folder'.")] = None,
    dense: Annotated[Path | None, typer.Option(help="Without a run: the dense model's weights.")] = None,
    pruned: Annotated[
        list[Path] | None, typer.Option(help="Weights or slim checkpoint of a pruned model; repeat for several.")
    ] = None,
    control: Annotated[
        list[Path] | None,
        typer.Option(help="Weights of a dense model of another seed, or the folder of another run; repeat."),
    ] = None,
    rounds: Annotated[bool, typer.Option(help="Compare the models of all rounds of the run.")] = False,
    seed_run: Annotated[
        list[Path] | None, typer.Option(help="The folder of the same run with another seed; repeat for several.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="'path/to/file.py:function' of predictions and labels, to be large; repeat."),
    ] = None,
    attack: Annotated[
        str, typer.Option(help="apgd, pgd, or where installed torchattacks:NAME or foolbox:NAME.")
    ] = "apgd",
    exact: Annotated[bool, typer.Option(help="Rank pixels by BackSelect itself, not by gradients; slow.")] = False,
    ood: Annotated[str | None, typer.Option(help="A data set whose images are strange to the models.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the result goes; the run's folder if left out.")] = None,
    images: Annotated[int, typer.Option(min=1, help="At most so many test images, stratified.")] = 10_000,
    severities: Annotated[str, typer.Option(help="Of the corruptions.")] = "1,2,3,4,5",
    strengths: Annotated[str | None, typer.Option(help="cifar, imagenet or mnist; what fits if left out.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Of the noise; the paper has 100.")] = 10,
    margin: Annotated[float, typer.Option(help="Error that a prune potential allows.")] = 0.005,
    mean: Annotated[str | None, typer.Option(help="Without a run: of the normalisation, one number a channel.")] = None,
    std: Annotated[str | None, typer.Option(help="As mean.")] = None,
    probabilities: Annotated[bool, typer.Option(help="The models end in a softmax.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of corruptions, noise and resamples.")] = 0,
) -> None:
    """Measure a run's slim model again; or, with --shifts, tell what pruning broke, of any two models."""
    if shifts is not None or folder is None:
        from secateur import evaluating
        from secateur.run.evaluation import Settings

        asked = evaluating.Asked(
            folder, shifts if shifts is not None else "corruptions,noise,ood", model, data, data_root, dense,
            pruned or [], control or [], ood, out, images, _numbers("mean", mean), _numbers("std", std),
            rounds, seed_run or [], metric or [],
        )  # fmt: skip
        levels = tuple(evaluating.levels(severities))
        settings = Settings(
            levels, strengths, margin, draws, attack=attack, seed=seed, probabilities=probabilities, exact=exact
        )
        record, page = evaluating.evaluated(asked, settings)
        if as_json:
            print(record.model_dump_json(indent=1))
        else:
            evaluating.tell(record, page)
        return
    measured_again(folder, data_root, as_json)


def measured_again(folder: Path, data_root: Path | None, as_json: bool) -> None:
    """Load the slim checkpoint, measure it again, and compare with the recorded numbers."""
    from secateur import console
    from secateur.run import evaluate as measured

    with console.stages() as progress:
        recorded, found = measured(folder, data_root=data_root, progress=progress)
    before = recorded.final
    if as_json:
        print(json.dumps({"recorded": before.model_dump(mode="json"), "now": found.model_dump(mode="json")}, indent=1))
    else:
        console.out.print(console.comparison_table(before, found))
    if (found.params, found.macs) != (before.params, before.macs):
        console.tell_error(f"{folder} holds another model than its record tells of: parameters or MACs differ.")
        raise typer.Exit(1)


@app.command("report")
@guard
def rebuild_report(
    folder: Made,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write the page anew from the numbers of a run."""
    from secateur import console, report
    from secateur.report.page import FILES

    paths = report.write(report.RunRecord.load(folder / FILES["json"]), folder)
    console.tell_places([("report", paths["page"])])
    if open_it:
        import webbrowser

        webbrowser.open(paths["page"].resolve().as_uri())


app.command("explain")(guard(explain_run))


@app.command()
def version() -> None:
    """Show the versions of secateur, torch and Python."""
    from importlib import metadata

    from secateur.version import __version__

    for name, number in (
        ("secateur", __version__),
        ("torch", metadata.version("torch")),
        ("python", sys.version.split()[0]),
    ):
        print(f"{name} {number}")


if __name__ == "__main__":
    main()
