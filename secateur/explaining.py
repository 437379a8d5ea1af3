"""The command `explain`: the network of a finished run on its test data, as a page. Heavy imports wait for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secateur.explain import Study


def explain_run(
    folder: Annotated[Path, typer.Argument(help="A folder that 'secateur run' or 'prune' left.", show_default=False)],
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with the data set's published files; SECATEUR_DATA if left out.")
    ] = None,
    allow_lost: Annotated[
        bool, typer.Option("--allow-lost", help="Also draw a network with a class that no path leads to.")
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Draw the paths of a small network: which inputs matter, which are alike, and which lead to which class."""
    from secateur import console
    from secateur.explain.page import FILE, write

    with console.stages() as progress:
        progress.begin("explain")
        page = write(studied(folder, data_root, allow_lost=allow_lost), folder / FILE)
    console.tell_places([("pathways", page)])
    if open_it:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def studied(folder: Path, data_root: Path | None = None, *, allow_lost: bool = False) -> Study:
    """The study of a run's network on its test data.

    Raises `CheckpointError` for a folder without a finished run, `InputError` for a model that is no chain of linear
    layers, and for a class that no path leads to, unless `allow_lost`.
    """
    import torch

    from secateur.building import load_data, source_of
    from secateur.explain import study
    from secateur.folder import RECIPE
    from secateur.recipe import Recipe
    from secateur.report.page import FILES
    from secateur.report.record import RunRecord
    from secateur.sparse import read
    from secateur.surgery.checkpoint import load

    recorded = RunRecord.load(folder / FILES["json"])
    recipe = Recipe.load(folder / RECIPE)
    data = load_data(recipe, torch.device("cpu"), data_root)
    source = source_of(recipe, data)
    network = read(load(source.build, folder), source.example)
    inputs, targets = (torch.cat(parts) for parts in zip(*data.test, strict=True))
    return study(
        network,
        inputs,
        targets,
        names=data.feature_names,
        classes=data.class_names,
        shape=data.shape,
        title=f"{recorded.model} on {recorded.data}",
        allow_lost=allow_lost,
    )
