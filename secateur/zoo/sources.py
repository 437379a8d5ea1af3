"""Models by name: `zoo:`, `torchvision:`, `timm:`, `transformers:` or a function in the user's own file.

A `Source` says how to build the model, what to call it with, and carries a JSON-able description from which the same
source is resolved again: `resolve(describe["spec"], **describe["kwargs"])`.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.zoo import networks, userfile

Build = Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Source:
    """Where a model comes from.

    `build()` makes it, freshly initialised; `example` is what it is called with (a tensor, a tuple of positional
    arguments or a dict of keyword arguments, batch of one); `describe` is `{"spec": ..., "kwargs": {...}}` in JSON
    types.
    """

    spec: str
    build: Build
    example: Any
    describe: dict[str, Any]

    @property
    def name(self) -> str:
        """The last part of the spec: `"resnet56"` of `"zoo:resnet56"`."""
        return self.spec.rpartition(":")[2]


@dataclass(frozen=True)
class Request:
    """What the caller asked for beside the name; `shape` is one input without the batch."""

    classes: int | None
    shape: tuple[int, ...] | None
    options: Mapping[str, Any]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments of `resolve` that were given, in JSON types."""
        given: dict[str, Any] = dict(self.options)
        if self.classes is not None:
            given["classes"] = self.classes
        if self.shape is not None:
            given["shape"] = list(self.shape)
        return given


def resolve(spec: str, *, classes: int | None = None, shape: Iterable[int] | None = None, **options: Any) -> Source:
    """The source that `spec` names.

    `spec`: `"zoo:resnet56"`, `"torchvision:resnet50"`, `"timm:NAME"`, `"transformers:CLASS"` or a folder with its
    `config.json` in the place of the class, or `"path/to/file.py:function"`, whose function returns a model or a pair
    (model, example). `classes`: how many outputs; `shape`: one input without the batch; both reach the constructor
    where it takes them. `options` are further constructor arguments (values of the configuration) and must be
    JSON-able.

    Raises `InputError` for a name that is not known, an option that the constructor refuses, a library that is missing.

    >>> source = resolve("zoo:resnet56", classes=100)
    >>> model, example = source.build(), source.example
    """
    if classes is not None and (not isinstance(classes, int) or classes < 1):
        raise InputError(f"The 'classes' parameter of resolve must be a positive int. Got {classes!r} instead.")
    request = Request(classes, _checked(shape), options)
    try:
        json.dumps(options)
    except TypeError as error:
        raise InputError(
            f"The options of {spec} must be JSON types, so that a checkpoint can name them: {error}."
        ) from error
    scheme, _, name = spec.partition(":")
    if scheme in RESOLVERS:
        return RESOLVERS[scheme](spec, name, request)
    path, _, function = spec.rpartition(":")
    if path.endswith(".py"):
        return _from_file(spec, Path(path).expanduser(), function, request)
    near = difflib.get_close_matches(spec, networks.names(), n=1)
    hint = f" Did you mean 'zoo:{near[0]}'?" if near else ""
    raise InputError(
        "The 'spec' parameter of resolve must be 'zoo:NAME', 'torchvision:NAME', 'timm:NAME', 'transformers:CLASS' or "
        f"'path/to/file.py:function'. Got {spec!r} instead.{hint}"
    )


def _checked(shape: Iterable[int] | None) -> tuple[int, ...] | None:
    if shape is None:
        return None
    sizes = tuple(shape)
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(
            f"The 'shape' parameter of resolve must be positive ints, without the batch. Got {shape!r} instead."
        )
    return sizes


def _noise(*shape: int) -> Tensor:
    """The same standard normal numbers at every call: an example on which no two channels agree by accident."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _unknown(library: str, name: str, known: list[str]) -> InputError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return InputError(f"There is no model named {name!r} in {library}.{hint}")


def _built(spec: str, build: Build) -> Build:
    """`build` whose failures name the spec; warnings about default initialisation say nothing here and are dropped."""

    def call() -> nn.Module:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                return build()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{spec} could not be built: {type(error).__name__}: {error}") from error

    return call


def _from_zoo(spec: str, name: str, request: Request) -> Source:
    """A network of `secateur.zoo`; the description names classes and shape even where they are defaults."""
    parameters = inspect.signature(networks.constructor(name)).parameters
    kwargs = {key: parameters[key].default for key in ("classes", "shape")} | request.kwargs
    kwargs["shape"] = list(networks.checked_shape(name, kwargs["shape"]))
    return Source(
        spec, partial(networks.model, name, **kwargs), _noise(1, *kwargs["shape"]), {"spec": spec, "kwargs": kwargs}
    )


def _from_torchvision(spec: str, name: str, request: Request) -> Source:
    """A torchvision model without weights; the example has the smallest crop its published weights were tested at."""
    from torchvision import models

    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    options = dict(request.options)
    if request.classes is not None:
        options["num_classes"] = request.classes
    if request.shape is not None and name.startswith("vit_"):
        options.setdefault("image_size", request.shape[-1])
    build = partial(models.get_model, name, weights=None, **options)
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        build = partial(build, weights_backbone=None)
    return Source(
        spec, _built(spec, build), _torchvision_example(name, request.shape), {"spec": spec, "kwargs": request.kwargs}
    )


def _torchvision_example(name: str, shape: tuple[int, ...] | None) -> Any:
    """What a torchvision model is called with: an image, a clip of 16 frames, a list of images, or two images."""
    from torchvision import models

    family = models.get_model_builder(name).__module__.split(".")[2]
    if family == "detection":
        return ([_noise(*(shape or (3, 320, 320)))],)
    if family == "optical_flow":
        frame = _noise(1, *(shape or (3, 128, 128)))
        return (frame, frame.flip(-1))
    if shape is not None:
        return _noise(1, *shape)
    transforms = [weights.transforms.keywords for weights in models.get_model_weights(name)]
    crop: Any = min((t["crop_size"] for t in transforms if "crop_size" in t), default=224)
    return _noise(1, 3, 16, *crop) if family == "video" else _noise(1, 3, crop, crop)


def _from_timm(spec: str, name: str, request: Request) -> Source:
    """A timm model without weights; the example has the input size of its configuration."""
    if importlib.util.find_spec("timm") is None:
        raise InputError(f"{spec} needs timm, which is not installed. Install it with: pip install 'secateur[timm]'")
    import timm

    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    config = timm.get_pretrained_cfg(name)
    native = tuple(config.input_size) if config is not None else (3, 224, 224)
    shape = request.shape or native
    options = dict(request.options)
    if request.classes is not None:
        options["num_classes"] = request.classes
    if shape[0] != native[0]:
        options.setdefault("in_chans", shape[0])
    if shape[1:] != native[1:] and config is not None and config.fixed_input_size:
        options.setdefault("img_size", list(shape[1:]))
    build = partial(timm.create_model, name, pretrained=False, **options)
    return Source(spec, _built(spec, build), _noise(1, *shape), {"spec": spec, "kwargs": request.kwargs})


def _from_transformers(spec: str, name: str, request: Request) -> Source:
    """A Transformers model without weights: of a class, or of what a folder's `config.json` names. No network."""
    if importlib.util.find_spec("transformers") is None:
        install = "Install it with: pip install 'secateur[transformers]'"
        raise InputError(f"{spec} needs Transformers, which is not installed. {install}")
    import transformers

    options = dict(request.options)
    if request.classes is not None:
        options["num_labels"] = request.classes
    try:
        if Path(name).expanduser().is_dir():
            folder = Path(name).expanduser()
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **options)
            kind = getattr(transformers, (config.architectures or ["none stated"])[0], None)
        else:
            kind = getattr(transformers, name, None)
            config = None if kind is None or not hasattr(kind, "config_class") else kind.config_class(**options)
    except Exception as error:
        raise InputError(f"{spec} has no configuration: {type(error).__name__}: {error}") from error
    if kind is None or config is None or not issubclass(kind, nn.Module):
        known = [n for n in dir(transformers) if n.endswith(("Model", "LM", "Classification", "Generation"))]
        raise _unknown("Transformers", name, known)

    def build() -> nn.Module:
        made: nn.Module = kind(copy.deepcopy(config))  # models change their configuration
        return made

    example = _transformers_example(spec, kind, config, request.shape)
    return Source(spec, _built(spec, build), example, {"spec": spec, "kwargs": request.kwargs})


def _transformers_example(spec: str, kind: Any, config: Any, shape: tuple[int, ...] | None) -> dict[str, Tensor]:
    """What a Transformers model is called with: ids of 16 tokens, an image or a second of sound, by its main input."""
    name = kind.main_input_name
    if name == "input_ids":
        words = config.get_text_config().vocab_size
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(words // 10, words, (1, *(shape or (16,))), generator=draw)
        return {name: ids, "decoder_input_ids": ids} if config.is_encoder_decoder else {name: ids}
    if name == "pixel_values" and shape is None:
        side = getattr(config, "image_size", 224)
        shape = (getattr(config, "num_channels", 3), *(side if isinstance(side, list | tuple) else (side, side)))
    if name == "input_values" and shape is None:
        shape = (16_000,)
    if shape is None:
        raise InputError(f"{spec} takes '{name}'. Give the shape of one of them, without the batch.")
    return {name: _noise(1, *shape)}


RESOLVERS: Mapping[str, Callable[[str, str, Request], Source]] = {
    "zoo": _from_zoo,
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "transformers": _from_transformers,
}
"""Scheme of a spec -> what resolves it."""


def _from_file(spec: str, path: Path, name: str, request: Request) -> Source:
    """A function of the user's file. It is called once here, to learn the example and whether it works."""
    function = userfile.load_function(path, name)
    call = _built(spec, partial(function, **_accepted(spec, function, request)))
    _, example = _parts(spec, call())
    if example is None and request.shape is not None:
        example = _noise(1, *request.shape)
    if example is None:
        raise InputError(
            f"{spec} returned a model without an example of its input. Return a pair (model, example), or give the "
            "shape of one input without the batch."
        )
    return Source(spec, lambda: _parts(spec, call())[0], example, {"spec": spec, "kwargs": request.kwargs})


def _accepted(spec: str, function: Callable[..., Any], request: Request) -> dict[str, Any]:
    """The arguments for the user's function: classes and shape where it takes them, every option or an error."""
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    refused = [option for option in request.options if option not in parameters and not takes_any]
    if refused:
        raise InputError(
            f"The function of {spec} takes no parameter {refused[0]!r}. It takes: {', '.join(parameters) or 'none'}."
        )
    accepted = dict(request.options)
    for key, value in (("classes", request.classes), ("num_classes", request.classes), ("shape", request.shape)):
        if key in parameters and value is not None:
            accepted.setdefault(key, value)
    return accepted


def _parts(spec: str, made: Any) -> tuple[nn.Module, Any]:
    """Model and example (or None) from what the user's function returned."""
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{spec} must return a torch.nn.Module or a pair (module, example). Got {type(model).__name__} instead."
        )
    return model, example
