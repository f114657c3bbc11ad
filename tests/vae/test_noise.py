"""The noise of an image depends on its pixels and the seed alone."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vae.noise import image_noise

Bytes = NDArray[np.uint8]


def test_noise_does_not_depend_on_the_batch_or_the_number_of_samples(images: Bytes) -> None:
    whole = image_noise(images, 10, (3,), 7)
    assert whole.shape == (200, 10, 3)
    assert whole.dtype == np.float32
    assert np.array_equal(image_noise(images[::-1], 10, (3,), 7)[::-1], whole)
    assert np.array_equal(image_noise(images[5:6], 4, (3,), 7)[0], whole[5, :4])
    repeated = image_noise(images[[5, 6, 5]], 10, (3,), 7)
    assert np.array_equal(repeated[0], repeated[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_pixels_have_the_noise_of_their_8_bits(images: Bytes, dtype: type[np.floating[Any]]) -> None:
    expected = image_noise(images, 2, (3,), 0)
    scaled = (images / 255).astype(dtype)
    assert np.array_equal(image_noise(scaled, 2, (3,), 0), expected)
    for quarter in (-0.001, 0.001):  # of a level
        assert np.array_equal(image_noise(np.clip(scaled + quarter, 0, 1), 2, (3,), 0), expected)
    assert np.array_equal(image_noise(images.transpose(0, 2, 1).copy().transpose(0, 2, 1), 2, (3,), 0), expected)


def test_images_and_seeds_have_independent_noise(images: Bytes) -> None:
    noise = image_noise(images, 500, (3,), 0)
    other = images.copy()
    other[:, 14, 14] ^= 1  # the last bit of one pixel
    for changed in (image_noise(images, 500, (3,), 1), image_noise(other, 500, (3,), 0), np.roll(noise, 1, axis=0)):
        assert abs(np.corrcoef(noise.ravel(), changed.ravel())[0, 1]) < 0.01  # five standard deviations are 0.009
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)


def test_latents_that_are_maps(images: Bytes) -> None:
    noise = image_noise(images[:2], 3, (2, 4, 5), 0)
    assert noise.shape == (2, 3, 2, 4, 5)
    assert np.array_equal(noise, image_noise(images[:2], 3, (40,), 0).reshape(noise.shape))


def test_noise_is_the_same_in_every_release() -> None:
    noise = image_noise(np.zeros((1, 1, 28, 28), np.uint8), 1, (3,), 0)
    np.testing.assert_allclose(noise[0, 0], [-1.3001344, -0.6245766, 0.9273021], 1e-6)
