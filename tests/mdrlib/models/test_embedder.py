import numpy as np
import pytest
import torch

from mdrlib.models import EmbeddingNetwork, build_embedder
from mdrlib.models.embedder import NORMALIZE
from mdrlib.models.small import SmallConvNet

IMAGES = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def build(**arguments):
    torch.manual_seed(0)
    return build_embedder(**{"dim": 16} | arguments)


def batch_norms(model):
    return [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def mean_distance(x):
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return d.sum() / (len(x) * (len(x) - 1))


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("dim", (1, 2, 128))
def test_shapes(dim, channels):
    model = build_embedder(dim=dim)
    images = torch.rand(5, channels, 32, 32)
    assert model(images).shape == (5, dim)
    assert model.backbone(images).shape == (5, model.backbone.features)
    assert model.eval()(images[:1]).shape == (1, dim)


def test_defaults_and_one_seed_one_model():
    model = build_embedder()
    assert isinstance(model, EmbeddingNetwork) and isinstance(model.backbone, SmallConvNet)
    assert model.linear.out_features == 128 and model.normalize == "none" and not model.freeze_batch_norm
    first, second = build(), build()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(first(IMAGES), second(IMAGES))


def test_the_small_network_sees_the_mean_over_channels():
    model = build().eval()
    colour = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(model(colour), model(colour.mean(1, keepdim=True)))


def test_four_heads():
    none, unit, mean, both = (build(normalize=n) for n in NORMALIZE)
    raw = none(IMAGES)
    np.testing.assert_array_equal(raw.detach(), none.linear(none.backbone(IMAGES)).detach())
    x = raw.detach().double().numpy()
    np.testing.assert_allclose(
        unit(IMAGES).detach(), x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(mean(IMAGES).detach(), x / mean_distance(x), rtol=1e-3, atol=1e-4)
    assert mean_distance(mean(IMAGES).detach().double().numpy()) == pytest.approx(1, rel=1e-5)
    found, sphere = both(IMAGES).detach(), unit(IMAGES).detach()
    np.testing.assert_allclose(found, sphere / mean_distance(sphere.double().numpy()), rtol=1e-4, atol=1e-5)
    evaluated = [build(normalize=n).eval()(IMAGES) for n in ("l2", "l2-mean-distance")]
    assert torch.equal(*evaluated)


@pytest.mark.parametrize("normalize", ("none", "l2", "mean-distance"))
def test_dim_0_leaves_the_features_as_they_are(normalize, tmp_path):
    model = build(dim=0, normalize=normalize).eval()
    features = model.backbone(IMAGES)
    assert model.dim == features.shape[1] == 256 and build(dim=16).dim == 16
    wanted = features / features.norm(dim=1, keepdim=True) if normalize == "l2" else features
    torch.testing.assert_close(model(IMAGES), wanted)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = build_embedder(dim=0, normalize=normalize, weights=tmp_path / "weights.pt").eval()
    assert torch.equal(again(IMAGES), model(IMAGES))
    with pytest.raises(ValueError, match=r"linear.bias is absent in the file and \(16,\) in the model"):
        build(weights=tmp_path / "weights.pt")


def test_eval_mode_gives_the_raw_embedding_but_on_the_sphere():
    none, unit, mean = (build(normalize=n).eval() for n in ("none", "l2", "mean-distance"))
    assert torch.equal(mean(IMAGES), none(IMAGES))
    torch.testing.assert_close(unit(IMAGES).norm(dim=1), torch.ones(6))
    torch.testing.assert_close(mean(IMAGES)[:1], mean(IMAGES[:1]))  # an image's own, whatever the batch


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_gradients_reach_every_parameter(normalize):
    model = build(normalize=normalize)
    (model(IMAGES) * torch.randn(6, 16)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all((p.grad != 0).any() for name, p in model.named_parameters() if name != "linear.bias")


def test_the_gradient_of_mean_distance_does_not_scale():
    model = build(normalize="mean-distance")
    model.linear.bias.data.zero_()
    (model(IMAGES) * torch.randn(6, 16)).sum().backward()
    weight = model.linear.weight
    # The output does not change when the weight is scaled.
    assert (weight.grad * weight).sum().abs() < 1e-4 * weight.grad.norm() * weight.norm()


def test_embeddings_are_float_under_autocast():
    for normalize in ("none", "l2", "mean-distance"):
        with torch.autocast("cpu", torch.bfloat16):
            assert build(normalize=normalize)(IMAGES).dtype == torch.float32


def test_frozen_batch_norm_stays_in_eval_mode():
    model = build(freeze_batch_norm=True)
    assert model.training and len(batch_norms(model)) == 4
    before = [m.running_mean.clone() for m in batch_norms(model)]
    for _ in range(2):
        assert not any(m.training for m in batch_norms(model)), "from the first call on"
        model(IMAGES)
        model.eval()
        assert not model.backbone.training
        model.train()
        assert model.backbone.training and model.linear.training
    assert all(torch.equal(m.running_mean, b) for m, b in zip(batch_norms(model), before, strict=True))
    model.eval()
    torch.testing.assert_close(model(IMAGES), model.train()(IMAGES))


def test_other_batch_norm_learns_statistics():
    model = build()
    model(IMAGES)
    assert all(m.training and (m.running_mean != 0).any() for m in batch_norms(model))
    assert not any(m.training for m in batch_norms(model.eval()))


@pytest.mark.parametrize("wrap", (lambda state: state, lambda state: {"model": state, "iteration": 7}))
def test_weights_from_a_state_dict_or_a_checkpoint(tmp_path, wrap):
    model = build()
    for _ in range(3):
        model(IMAGES)
    torch.save(wrap(model.state_dict()), tmp_path / "weights.pt")
    torch.manual_seed(9)
    for path in (tmp_path / "weights.pt", str(tmp_path / "weights.pt")):
        other = build_embedder(dim=16, normalize="l2", weights=path)
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in other.state_dict().items())
        assert other.normalize == "l2"


def test_weights_of_a_file_in_the_old_format(tmp_path):
    model = build()
    torch.save(model.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.testing.assert_close(
        build_embedder(dim=16, weights=tmp_path / "old.pth").eval()(IMAGES), model.eval()(IMAGES)
    )


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(build(dim=8).state_dict(), path)
    with pytest.raises(ValueError) as caught:
        build(weights=path)
    assert str(caught.value) == (
        f"{path} does not fit: linear.bias is (8,) in the file and (16,) in the model"
    )
    torch.save(build().state_dict() | {"base.one": torch.ones(2), "epoch": 3}, path)
    with pytest.raises(ValueError, match=r"base.one is \(2,\) in the file and absent in the model"):
        build(weights=path)


@pytest.mark.parametrize("content", ({}, {1: torch.ones(1), "a": 2}, {"model": {"small": 1}}))
def test_files_of_something_else_do_not_fit(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="weights.pt does not fit: backbone"):
        build(weights=tmp_path / "weights.pt")


@pytest.mark.parametrize("content", ([torch.ones(2)], torch.ones(3), {"model": "small"}))
def test_files_without_tensors_by_name_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="holds more than tensors"):
        build(weights=tmp_path / "weights.pt")


@pytest.mark.parametrize("content", (b"", b"nothing of torch's", b"PK\x03\x04cut"))
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(ValueError, match="weights.pt is damaged"):
        build(weights=tmp_path / "weights.pt")


def test_a_damaged_or_executable_file_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(build().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="weights.pt is damaged"):
        build(weights=path)
    torch.save(build(), path)  # a pickled module, which loading would have to execute
    with pytest.raises(ValueError, match="holds more than tensors"):
        build(weights=path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.pt"):
        build(weights=tmp_path / "missing.pt")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"backbone": "large"}, "backbone must be .*'large'"),
        ({"normalize": "L2"}, "normalize must be one of .*'none', 'l2', 'mean-distance'.* got 'L2'"),
        ({"normalize": None}, "normalize must be one of .* got None"),
        ({"pretrained": True}, "no pretrained weights and no pooling to choose: leave both out"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_embedder(**arguments)


@pytest.mark.parametrize("shape", ((6, 1, 28, 28), (6, 1, 32, 33), (1, 32, 32), (6, 1024)))
def test_images_of_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=r"takes images \(N, C, 32, 32\), got \("):
        build()(torch.zeros(shape))


def test_one_image_has_no_mean_distance_in_training():
    model = build(normalize="mean-distance", freeze_batch_norm=True)
    with pytest.raises(ValueError, match=r"at least 2 vector\(s\)"):
        model(IMAGES[:1])
