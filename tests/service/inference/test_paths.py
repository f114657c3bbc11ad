import numpy as np
import pytest

from service.inference.paths import interpolate, traverse


@pytest.mark.parametrize("spherical", [False, True])
def test_both_ends_are_counted(spherical: bool) -> None:
    start, stop = [0.1, -2.0, 3.0], [1.5, 0.2, -0.7]
    z = interpolate(start, stop, 5, spherical=spherical)
    assert (z.shape, z.dtype) == ((5, 3), np.dtype(np.float32))
    np.testing.assert_allclose(z[[0, -1]], [start, stop], rtol=1e-6)


def test_a_straight_line_has_even_steps() -> None:
    z = interpolate([0, 0], [3, -6], 4, spherical=False)
    np.testing.assert_allclose(z, [[0, 0], [1, -2], [2, -4], [3, -6]], atol=1e-6)


def test_an_arc_keeps_its_distance_and_turns_evenly() -> None:
    z = interpolate([2, 0, 0], [0, 1.2, 1.6], 9, spherical=True).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 2, rtol=1e-6)
    angles = np.arccos((z[:-1] * z[1:]).sum(1) / 4)
    np.testing.assert_allclose(angles, np.pi / 2 / 8, rtol=1e-4)


@pytest.mark.parametrize(("start", "stop"), [([1, 2], [2, 4]), ([1, 2], [-1, -2]), ([0, 0], [1, 2]), ([1, 2], [1, 2])])
def test_where_no_arc_is_defined_the_line_is_taken(start: list[float], stop: list[float]) -> None:
    arc = interpolate(start, stop, 6, spherical=True)
    assert np.isfinite(arc).all()
    np.testing.assert_allclose(arc, interpolate(start, stop, 6, spherical=False), atol=1e-6)


def test_traversal_sets_one_dimension() -> None:
    z = traverse([5, 6, 7], [1], -1, 1, 3)
    assert z.dtype == np.float32
    assert z.tolist() == [[5, -1, 7], [5, 0, 7], [5, 1, 7]]


def test_traversal_of_two_goes_row_by_row() -> None:
    z = traverse([5, 6, 7], [2, 0], 0, 1, 2)
    assert z.tolist() == [[0, 6, 0], [0, 6, 1], [1, 6, 0], [1, 6, 1]]
