import math

import pytest
import torch

from mdrlib.datasets.transforms import random_affine, to_float

STILL = {"degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0), "shear": 0.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blob(height=32, width=32, x=0, y=0):
    """A bright square of 5 x 5 pixels whose centre is x to the right of and y below the middle."""
    image = torch.zeros(1, 1, height, width)
    top, left = height // 2 + y - 2, width // 2 + x - 2
    image[..., top : top + 5, left : left + 5] = 1
    return image


def centre(images):
    """Centres of brightness (N, 2), x and y in pixels from the middle of the image."""
    height, width = images.shape[2:]
    y = torch.arange(height) + 0.5 - height / 2
    x = torch.arange(width) + 0.5 - width / 2
    total = images.sum((1, 2, 3))
    return torch.stack([(images.sum((1, 2)) * x).sum(1) / total, (images.sum((1, 3)) * y).sum(1) / total], 1)


def test_to_float_maps_bytes_to_the_unit_interval():
    out = to_float(torch.tensor([[0, 51, 255]], dtype=torch.uint8))
    assert out.dtype == torch.float32
    assert torch.equal(out, torch.tensor([[0.0, 0.2, 1.0]]))


@pytest.mark.parametrize("images", [torch.zeros(2), torch.zeros(2, dtype=torch.int64)])
def test_to_float_refuses_what_is_not_uint8(images):
    with pytest.raises(TypeError, match="uint8"):
        to_float(images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 1, 32, 32), (2, 3, 20, 31)])
def test_without_amounts_images_stay_as_they_are(dtype, shape):
    images = torch.rand(shape, generator=seeded(), dtype=dtype)
    out = random_affine(images, seeded(), **STILL)
    assert out.dtype == dtype
    torch.testing.assert_close(out, images, atol=1e-5, rtol=0)


def test_a_seed_decides_and_torchs_own_generator_is_left_alone():
    images = torch.rand(5, 1, 32, 32, generator=seeded())
    before, state = images.clone(), torch.get_rng_state()
    first = random_affine(images, seeded(1))
    assert torch.equal(first, random_affine(images, seeded(1)))
    assert not torch.equal(first, random_affine(images, seeded(2)))
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)


def test_parts_of_a_batch_come_out_as_in_the_whole_and_draw_as_much():
    images = torch.rand(7, 2, 9, 11)
    whole = torch.Generator().manual_seed(0)
    expected = random_affine(images, whole)
    for first, stop in ((0, 7), (0, 3), (3, 4), (5, 7)):
        generator = torch.Generator().manual_seed(0)
        found = random_affine(images[first:stop], generator, first=first, of=7)
        assert torch.equal(found, expected[first:stop])
        assert torch.equal(generator.get_state(), whole.get_state())


def test_each_image_of_a_batch_has_its_own_change():
    out = random_affine(blob(x=6).repeat(8, 1, 1, 1), seeded())
    assert len({tuple(image.flatten().tolist()) for image in out}) == 8


def test_values_stay_in_range_and_what_comes_in_is_black():
    out = random_affine(torch.ones(64, 1, 32, 32), seeded(), degrees=45, translate=0.3, shear=30)
    assert out.min() == 0 and out.max() <= 1
    assert 0.3 < out.mean() < 0.95


def test_rotation_keeps_the_distance_from_the_middle_in_pixels_even_when_not_square():
    images = blob(48, 96, x=14).repeat(200, 1, 1, 1)
    at = centre(random_affine(images, seeded(), **STILL | {"degrees": 60.0}))
    torch.testing.assert_close(at.norm(dim=1), torch.full((200,), 14.5), atol=0.4, rtol=0)
    angle = torch.rad2deg(torch.atan2(at[:, 1], at[:, 0]))
    assert -63 < angle.min() < -50 and 50 < angle.max() < 63


def test_translation_is_a_share_of_each_side_and_uniform():
    at = centre(random_affine(blob(32, 64).repeat(400, 1, 1, 1), seeded(), **STILL | {"translate": 0.25}))
    at = at - centre(blob(32, 64))
    assert 15 < at[:, 0].abs().max() <= 16.01 and 7.5 < at[:, 1].abs().max() <= 8.01
    assert at.mean(0).abs().max() < 1


def test_scale_above_one_enlarges():
    area = random_affine(blob(), seeded(), **STILL | {"scale": (2.0, 2.0)}).sum()
    assert math.isclose(area, 4 * 25, rel_tol=0.05)
    many = random_affine(blob().repeat(300, 1, 1, 1), seeded(), **STILL | {"scale": (0.5, 2.0)})
    areas = many.sum((1, 2, 3))
    assert areas.min() < 15 and areas.max() > 60
    assert abs((areas / 25).log().mean()) < 0.15  # as often smaller as larger


def test_shear_moves_rows_against_each_other_and_keeps_columns():
    at = centre(random_affine(blob(y=8).repeat(200, 1, 1, 1), seeded(), **STILL | {"shear": 45.0}))
    torch.testing.assert_close(at[:, 1], torch.full((200,), 8.5), atol=0.05, rtol=0)
    assert at[:, 0].abs().max() > 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_with_a_generator_of_either_device():
    images = torch.rand(4, 1, 32, 32, generator=seeded())
    out = random_affine(images.cuda(), seeded(1))
    torch.testing.assert_close(out.cpu(), random_affine(images, seeded(1)), atol=1e-4, rtol=0)
    assert random_affine(images.cuda(), torch.Generator("cuda").manual_seed(0)).is_cuda
