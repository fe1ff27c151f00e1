import pytest
import torch

from mdrlib.datasets import glyphs, load


@pytest.fixture(scope="module")
def splits():
    return load("glyphs", "train"), load("glyphs", "test")


def pixel_distances(data):
    x = data.images.flatten(1).double()
    return torch.cdist(x, x)


def test_there_are_alphabets_of_characters_by_the_same_writers(splits):
    first = 0
    assert not set(splits[0].classes) & set(splits[1].classes)
    for data in splits:
        assert data.images.shape == (2400, 1, 32, 32)
        assert len(data.classes) == len(set(data.classes)) == 120 and len(data.group_names) == 10
        assert (data.labels.bincount() == 20).all() and (data.groups.bincount() == 240).all()
        assert torch.equal(data.labels // 12, data.groups)
        assert torch.equal(data.writers, torch.arange(20).repeat(120))
        assert data.classes[13] == f"{data.group_names[1]}/character 02"
        assert data.group_names[0] == f"alphabet {first + 1:02d}"
        first += 10


def test_every_call_gives_the_same_and_leaves_torchs_own_generator_alone(splits):
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        again = load("glyphs", "test")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(splits[1].images, again.images) and splits[1].fingerprint == again.fingerprint


def test_the_images_are_those_of_the_published_results(splits):
    # Change these only with the committed results: results name their data by them.
    assert [data.fingerprint for data in splits] == ["d99deb22bc20a318", "efbe79b494f9e915"]


def test_no_drawing_comes_twice_in_or_across_splits(splits):
    images = torch.cat([data.images for data in splits]).flatten(1)
    assert len(images.unique(dim=0)) == 4800


def test_strokes_are_bright_on_black_with_soft_edges_inside_a_margin(splits):
    for data in splits:
        images = data.images[:, 0]
        assert (images.flatten(1).amax(1) > 200).all()
        share = (images > 127).double().mean((1, 2))
        assert 0.01 < share.min() and share.max() < 0.4 and 0.08 < share.mean() < 0.2
        soft = ((images > 0) & (images < 255)).double().mean((1, 2))
        assert soft.min() > 0.01
        assert not images[:, [0, -1]].any() and not images[:, :, [0, -1]].any()


def test_strokes_are_lines_without_gaps(splits):
    # Every bright pixel has bright neighbours on some side: points on a stroke lie close to each other.
    for data in splits:
        bright = (data.images > 127).float()
        neighbours = torch.nn.functional.avg_pool2d(bright, 3, 1, 1) * 9 - bright
        assert (neighbours[bright.bool()] == 0).double().mean() < 1e-3


def test_pixels_see_characters_and_alphabets_but_do_not_tell_characters_apart(splits):
    for data in splits:
        d = pixel_distances(data)
        character = data.labels[:, None] == data.labels
        alphabet = (data.groups[:, None] == data.groups) & ~character
        other = data.groups[:, None] != data.groups
        character.fill_diagonal_(False)
        assert d[character].mean() < 0.95 * d[alphabet].mean() < 0.95 * d[other].mean()
        nearest = d.fill_diagonal_(torch.inf).argmin(1)
        # Far above chance (0.8 %), far below what a trained network reaches.
        assert 0.25 < (data.labels[nearest] == data.labels).double().mean() < 0.5


def test_the_renderer_draws_a_pen_of_the_given_radius():
    t = torch.linspace(0, 1, 200, dtype=torch.float64)
    level = torch.stack([8 + 16 * t, torch.full_like(t, 12.0)], 1)
    image = glyphs._render(level[None], torch.tensor([2.0]))[0, 0].double() / 255
    # Rows 10..13 have their centres at most 1.5 pixels from y = 12; rows 9 and 14 are at 2.5: no ink.
    assert (image[10:14, 10:22] == 1).all()
    assert not image[:9].any() and not image[15:].any()
    assert image[:, 10:22].sum(0).allclose(torch.tensor(4.0, dtype=torch.float64), atol=0.02)


def test_the_renderer_is_exact_in_float32():
    generator = torch.Generator().manual_seed(0)
    points = 32 * torch.rand(3, 50, 2, generator=generator, dtype=torch.float64)
    pen = torch.tensor([0.7, 1.0, 1.4])
    rounded = (points * 64).round() / 64
    centre = torch.arange(32, dtype=torch.float64) + 0.5
    grid = torch.stack(torch.meshgrid(centre, centre, indexing="xy"), -1).view(-1, 2)
    nearest = torch.cdist(grid.expand(3, -1, -1), rounded, compute_mode="donot_use_mm_for_euclid_dist").amin(
        2
    )
    expected = ((pen[:, None].double() + 0.5 - nearest).clamp(0, 1) * 255).view(3, 1, 32, 32)
    assert (glyphs._render(points, pen).double() - expected).abs().max() < 0.501


def test_points_lie_at_equal_distances_along_a_curve():
    curve = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.1, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    points = glyphs._evenly(curve, torch.tensor([0.5], dtype=torch.float64))[0]
    wanted = torch.linspace(0, 0.5, glyphs.STEPS, dtype=torch.float64)
    torch.testing.assert_close(points[:, 0], wanted, atol=1e-9, rtol=0)
    assert not points[:, 1].any()
