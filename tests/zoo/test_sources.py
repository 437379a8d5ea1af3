from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import InputError
from secateur.zoo import resolve

SMALL = """
from torch import nn
import torch

def build(classes=4, width=3):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten(), nn.LazyLinear(classes)), torch.zeros(1, 3, 8, 8)

def bare():
    return nn.Linear(5, 2)

def pair_of_nothing():
    return 1, 2

def broken():
    raise RuntimeError("weights of lead")

def sized(num_classes, shape):
    return nn.Linear(shape[0], num_classes)

number = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    return path


def test_a_zoo_source_builds_and_runs() -> None:
    source = resolve("zoo:resnet20", classes=100)
    assert source.name == "resnet20"
    assert source.example.shape == (1, 3, 32, 32)
    assert source.build().eval()(source.example).shape == (1, 100)
    assert resolve("zoo:resnet8").example.shape == (1, 1, 8, 8)


def test_options_reach_the_constructor() -> None:
    model = resolve("zoo:resnet20", shortcut="B", width=8, shape=(1, 16, 16)).build()
    assert model.get_submodule("layer2.0.shortcut.0").weight.shape == (16, 8, 1, 1)


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("zoo:vgg16_bn", {}),
        ("zoo:resnet20", {"classes": 3, "shape": (1, 8, 8), "shortcut": "B"}),
        ("torchvision:resnet18", {"classes": 5}),
        ("timm:vit_tiny_patch16_224", {"classes": 5, "shape": (3, 32, 32), "depth": 2}),
    ],
)
def test_a_description_in_json_resolves_to_the_same_source(spec: str, arguments: dict[str, Any]) -> None:
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    source = resolve(spec, **arguments)
    described = json.loads(json.dumps(source.describe))
    again = resolve(described["spec"], **described["kwargs"])
    assert again.describe == source.describe
    assert torch.equal(again.example, source.example)
    shapes = [{name: value.shape for name, value in s.build().state_dict().items()} for s in (source, again)]
    assert shapes[0] == shapes[1]


def test_a_zoo_description_names_defaults_too() -> None:
    kwargs = resolve("zoo:resnet56").describe["kwargs"]
    assert kwargs == {"classes": 10, "shape": [3, 32, 32]}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (1, 3, 224, 224)),
        ("inception_v3", (1, 3, 299, 299)),
        ("efficientnet_v2_s", (1, 3, 384, 384)),
        ("swin_v2_t", (1, 3, 256, 256)),
        ("vit_h_14", (1, 3, 224, 224)),
        ("lraspp_mobilenet_v3_large", (1, 3, 224, 224)),
        ("r3d_18", (1, 3, 16, 112, 112)),
    ],
)
def test_a_torchvision_example_has_the_size_of_the_weights(name: str, shape: tuple[int, ...]) -> None:
    assert resolve(f"torchvision:{name}").example.shape == shape


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "lraspp_mobilenet_v3_large"])
def test_a_torchvision_source_builds_without_weights_and_runs(name: str) -> None:
    source = resolve(f"torchvision:{name}", classes=7)
    with torch.inference_mode():
        output = source.build().eval()(source.example)
    logits = output["out"] if isinstance(output, dict) else output
    assert logits.shape[:2] == (1, 7)


def test_examples_of_detection_and_flow_have_their_structure() -> None:
    images = resolve("torchvision:ssdlite320_mobilenet_v3_large").example
    assert isinstance(images, tuple)
    assert images[0][0].shape == (3, 320, 320)
    first, second = resolve("torchvision:raft_small").example
    assert first.shape == second.shape == (1, 3, 128, 128)


def test_a_vision_transformer_of_torchvision_takes_the_shape() -> None:
    source = resolve("torchvision:vit_b_16", shape=(3, 32, 32))
    with torch.device("meta"):
        model = source.build()
    assert model.image_size == 32


def test_warnings_about_initialisation_are_not_the_users() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve("torchvision:googlenet", init_weights=None).build()


def test_a_timm_source_takes_classes_channels_and_size() -> None:
    pytest.importorskip("timm")
    source = resolve("timm:vit_tiny_patch16_224", classes=5, shape=(1, 32, 32), depth=1)
    assert source.build().eval()(source.example).shape == (1, 5)
    assert resolve("timm:resnet10t.c3_in1k").example.shape == (1, 3, 176, 176)
    assert resolve("timm:resnet10t", shape=(3, 64, 64)).build().eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"timm:resnet18 needs timm, .* pip install 'secateur\[timm\]'"):
        resolve("timm:resnet18")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zoo:resnet57", "no network named 'resnet57' in the zoo. Nearest: resnet56"),
        ("torchvision:resnet51", "no model named 'resnet51' in torchvision. Nearest: resnet50"),
        ("timm:resnet51", "no model named 'resnet51' in timm. Nearest: .*resnet50"),
        ("resnet56", "Got 'resnet56' instead. Did you mean 'zoo:resnet56'?"),
        (
            "hub:thing",
            "must be 'zoo:NAME', 'torchvision:NAME', 'timm:NAME', 'transformers:CLASS' or 'path/to/file.py:function'",
        ),
        ("nowhere/model.py:build", "no file nowhere/model.py"),
    ],
)
def test_a_spec_that_names_nothing_says_what_is_near(spec: str, message: str) -> None:
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        resolve(spec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "'classes' parameter of resolve must be a positive int. Got 0"),
        ({"classes": 2.0}, "'classes' parameter of resolve"),
        ({"shape": (3, -1, 32)}, "'shape' parameter of resolve must be positive ints"),
        ({"norm_layer": nn.BatchNorm2d}, "must be JSON types, so that a checkpoint can name them"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve("torchvision:resnet18", **arguments)


def test_an_option_that_the_constructor_refuses_names_the_spec() -> None:
    with pytest.raises(InputError, match=r"torchvision:resnet18 could not be built: TypeError: .*blocks"):
        resolve("torchvision:resnet18", blocks=3).build()


def test_a_function_of_a_file_gives_model_and_example(file: Path) -> None:
    source = resolve(f"{file}:build", classes=6, width=5)
    assert source.name == "build"
    assert source.build()(source.example).shape == (1, 6)
    assert source.build() is not source.build()
    assert source.describe == {"spec": f"{file}:build", "kwargs": {"classes": 6, "width": 5}}


def test_a_function_may_take_the_names_of_torchvision_or_nothing(file: Path) -> None:
    sized = resolve(f"{file}:sized", classes=6, shape=(9,))
    assert sized.build()(sized.example).shape == (1, 6)
    bare = resolve(f"{file}:bare", classes=2, shape=(5,))
    assert bare.build()(bare.example).shape == (1, 2)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("bare", {}, "returned a model without an example of its input. Return a pair"),
        ("pair_of_nothing", {}, r"must return a torch.nn.Module or a pair \(module, example\). Got int"),
        ("broken", {}, "could not be built: RuntimeError: weights of lead"),
        ("biuld", {}, "no function 'biuld' in .*small.py. Nearest: build"),
        ("number", {}, "no function 'number'"),
        ("build", {"wdth": 1}, "takes no parameter 'wdth'. It takes: classes, width"),
    ],
)
def test_a_function_that_does_not_serve_says_why(
    function: str, arguments: dict[str, Any], message: str, file: Path
) -> None:
    with pytest.raises(InputError, match=message):
        resolve(f"{file}:{function}", **arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why(text: str, message: str, tmp_path: Path) -> None:
    before = set(sys.modules)
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(InputError, match=rf"bad.py could not be imported: {message}"):
        resolve(f"{tmp_path / 'bad.py'}:f")
    assert not [name for name in set(sys.modules) - before if "bad" in name]


def test_a_file_hides_no_module_of_its_name(tmp_path: Path) -> None:
    import random as before

    (tmp_path / "random.py").write_text(SMALL)
    resolve(f"{tmp_path / 'random.py'}:build")
    import random as after

    assert after is before
    assert str(tmp_path) not in sys.path


def test_neighbours_of_one_name_are_each_files_own(tmp_path: Path) -> None:
    for folder, width in (("one", 3), ("two", 5)):
        (tmp_path / folder / "pieces").mkdir(parents=True)
        (tmp_path / folder / "pieces" / "__init__.py").write_text(f"WIDTH = {width}")
        (tmp_path / folder / "late.py").write_text(f"INPUTS = {width + 1}")
        (tmp_path / folder / "model.py").write_text(
            "import torch\nfrom torch import nn\nfrom pieces import WIDTH\n"
            "def build():\n    from late import INPUTS\n    return nn.Linear(INPUTS, WIDTH), torch.zeros(1, INPUTS)\n"
        )
    one, two = (resolve(f"{tmp_path / folder / 'model.py'}:build") for folder in ("one", "two"))
    assert one.build().weight.shape == (3, 4)  # type: ignore[union-attr]
    assert two.build().weight.shape == (5, 6)  # type: ignore[union-attr]
    assert not {"pieces", "late"} & set(sys.modules)


def test_a_neighbour_on_the_ordinary_path_stays_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "kept_neighbour.py").write_text("WIDTH = 2")
    (tmp_path / "model.py").write_text("import kept_neighbour\n" + SMALL)
    resolve(f"{tmp_path / 'model.py'}:build")
    assert sys.modules.pop("kept_neighbour").WIDTH == 2


TINY = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip


def test_a_transformers_source_is_built_from_numbers_or_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = resolve("transformers:BertForSequenceClassification", classes=5, **TINY)
    model = source.build().eval()
    assert model(**source.example).logits.shape == (1, 5)
    assert source.example["input_ids"].shape == (1, 16)
    assert json.loads(json.dumps(source.describe))["kwargs"]["classes"] == 5
    model.config.architectures = ["BertForSequenceClassification"]
    model.config.save_pretrained(tmp_path)
    again = resolve(f"transformers:{tmp_path}", shape=(9,))
    assert isinstance(again.build(), transformers.BertForSequenceClassification)
    assert again.build()(**again.example).logits.shape == (1, 5)


def test_transformers_sources_of_images_and_pairs() -> None:
    pytest.importorskip("transformers")
    vision = {
        key: TINY[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    source = resolve("transformers:ViTModel", image_size=32, patch_size=8, **vision)
    assert source.example["pixel_values"].shape == (1, 3, 32, 32)
    pair = resolve("transformers:T5ForConditionalGeneration", d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=24)
    assert set(pair.example) == {"input_ids", "decoder_input_ids"}
    with pytest.raises(InputError, match=r"takes 'input_features'. Give the shape"):
        resolve("transformers:WhisperModel")
    with pytest.raises(InputError, match=r"no model named 'BertForMaskedLN' in Transformers. Nearest: BertForMaskedLM"):
        resolve("transformers:BertForMaskedLN")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"BertModel needs Transformers, .* pip install 'secateur\[transformers\]'"):
        resolve("transformers:BertModel")
