import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vae
from training import plots
from training.__main__ import main
from training.vision import load_vision


@pytest.fixture(scope="module")
def drawn(fitted: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "plots"
    assert main(["plot", str(fitted), "--out", str(out), "--data-dir", str(data_dir)]) == 0
    return out


def test_the_page_needs_no_network(drawn: Path) -> None:
    page = (drawn / "latent3d.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=", page)
    assert "Plotly.newPlot" in page
    assert 3e6 < len(page) < 8e6  # plotly.js is in it


@pytest.mark.parametrize("name", ["latents.png", "reconstructions.png", "samples.png"])
def test_pictures_are_large_and_not_blank(drawn: Path, name: str) -> None:
    with Image.open(drawn / name) as picture:
        pixels = np.asarray(picture.convert("L"))
        assert picture.width >= 800
    assert pixels.std() > 5


@pytest.mark.parametrize(
    ("dimensions", "kind", "axes"), [(1, "scattergl", 2), (2, "scattergl", 2), (3, "scatter3d", 3), (5, "scatter3d", 3)]
)
def test_latents_of_any_dimension_have_a_trace_per_digit(dimensions: int, kind: str, axes: int) -> None:
    latents = torch.randn(200, dimensions, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 10
    points, names = plots.project(latents)
    assert points.shape == (200, axes)
    assert len(set(names)) == axes
    figure = plots.latent_scatter(points, names, labels)
    assert [(trace.type, trace.name, len(trace.x)) for trace in figure.data] == [(kind, str(i), 20) for i in range(10)]
    layout = figure.layout.scene if axes == 3 else figure.layout
    shown = [layout.xaxis.title.text, layout.yaxis.title.text, *([layout.zaxis.title.text] if axes == 3 else [])]
    assert shown == names
    panels = plots.latent_picture(points, names, labels).axes
    assert len(panels) == (3 if axes == 3 else 1)


def test_three_dimensions_are_shown_as_they_are() -> None:
    latents = torch.randn(50, 3)
    points, names = plots.project(latents)
    assert np.array_equal(points, latents.numpy())
    assert names == ["z1", "z2", "z3"]


def test_more_dimensions_are_shown_by_their_principal_components() -> None:
    latents = torch.zeros(1000, 5)
    spread = {3: 5.0, 0: 2.0, 4: 1.0}
    for column, (dimension, scale) in enumerate(spread.items()):
        latents[:, dimension] = scale * torch.randn(1000, generator=torch.Generator().manual_seed(column)) + 7
    points, names = plots.project(latents)
    assert np.allclose(points.std(0), list(spread.values()), rtol=0.1)
    assert np.allclose(points.mean(0), 0, atol=1e-4)
    variance = points.var(0) / points.var(0).sum()
    assert names == [f"principal component {i + 1} ({variance[i]:.0%} of variance)" for i in range(3)]


def test_one_test_image_of_each_digit_stands_above_its_reconstruction(fitted: Path, data_dir: Path) -> None:
    model, test = vae.load(fitted).model, load_vision("mnist", data_dir, train=False)
    panels = plots.reconstructions(model, test).axes
    shown = [np.asarray(panel.images[0].get_array()) for panel in panels]
    assert len(shown) == 20
    for digit in range(10):
        x = test.images[int((test.labels == digit).nonzero()[0])].float() / 255
        assert np.allclose(shown[digit], x[0])
        decoded = torch.sigmoid(model.decode(model.encode(x.unsqueeze(0))[0]))
        assert np.allclose(shown[10 + digit], decoded[0, 0], atol=1e-5)


def test_samples_follow_their_seed(fitted: Path) -> None:
    model = vae.load(fitted).model

    def first(seed: int) -> object:
        return np.asarray(plots.samples(model, seed, side=2).axes[0].images[0].get_array()).tolist()

    assert first(0) == first(0) != first(1)


def test_plot_takes_a_two_dimensional_model(
    new_checkpoint: Callable[[vae.VAEConfig], Path], data_dir: Path, tmp_path: Path
) -> None:
    path = new_checkpoint(vae.VAEConfig(hidden_dim=4, latent_dim=2))
    assert main(["plot", str(path), "--out", str(tmp_path / "plots"), "--data-dir", str(data_dir)]) == 0
    assert "scattergl" in (tmp_path / "plots" / "latent3d.html").read_text(encoding="utf-8")
