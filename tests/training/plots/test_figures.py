import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

import vae
from training.__main__ import main
from training.data.builtin import load_builtin
from training.data.dataset import NO_LABEL, Dataset, to_pixels
from training.plots import curves, figures, grids, manifold, scatter

pytestmark = pytest.mark.slow

PICTURES = [
    "latents", "reconstructions", "samples", "interpolations", "unusual", "manifold-z1-z2", "manifold-z2-z3", "losses",
]  # fmt: skip


def shown(figure: Figure) -> list[NDArray[np.float64]]:
    """The image of each panel that has one."""
    return [np.asarray(panel.images[0].get_array()) for panel in figure.axes if panel.images]


@pytest.fixture(scope="module")
def drawn(fitted: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "plots"
    assert main(["plot", str(fitted), "--out", str(out), "--data-dir", str(data_dir)]) == 0
    return out


@pytest.fixture
def low_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "DPI", 20)


def test_the_page_needs_no_network(drawn: Path) -> None:
    page = (drawn / "latent3d.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=", page)
    assert "Plotly.newPlot" in page
    assert 3e6 < len(page) < 8e6  # plotly.js is in it


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_large_and_not_blank(drawn: Path, name: str) -> None:
    with Image.open(drawn / f"{name}.png") as picture:
        pixels = np.asarray(picture.convert("L"))
        assert picture.width >= 800
    assert pixels.std() > 5


@pytest.mark.parametrize(
    ("dimensions", "kind", "axes"), [(1, "scattergl", 2), (2, "scattergl", 2), (3, "scatter3d", 3), (5, "scatter3d", 3)]
)
def test_latents_of_any_dimension_have_a_trace_per_digit(dimensions: int, kind: str, axes: int) -> None:
    latents = torch.randn(200, dimensions, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 10
    points, names = scatter.project(latents)
    assert points.shape == (200, axes)
    assert len(set(names)) == axes
    figure = scatter.latent_scatter(points, names, labels)
    assert [(trace.type, trace.name, len(trace.x)) for trace in figure.data] == [(kind, str(i), 20) for i in range(10)]
    layout = figure.layout.scene if axes == 3 else figure.layout
    titles = [layout.xaxis.title.text, layout.yaxis.title.text, *([layout.zaxis.title.text] if axes == 3 else [])]
    assert titles == names
    panels = scatter.latent_panels(points, names, labels).axes
    assert len(panels) == (3 if axes == 3 else 1)


def test_latents_without_labels_have_no_legend() -> None:
    points, names = scatter.project(torch.randn(20, 2))
    labels = torch.full((20,), NO_LABEL)
    assert not any(trace.showlegend for trace in scatter.latent_scatter(points, names, labels).data)
    assert not scatter.latent_panels(points, names, labels).legends
    assert len(scatter.latent_panels(points, names, torch.arange(20) % 2).legends) == 1


def test_classes_are_called_by_their_names() -> None:
    points, names = scatter.project(torch.randn(30, 2))
    labels = torch.arange(30) % 3 - 1
    assert labels.min() == NO_LABEL
    figure = scatter.latent_scatter(points, names, labels, names=("cats", "dogs"))
    assert [trace.name for trace in figure.data] == ["", "cats", "dogs"]
    (legend,) = scatter.latent_panels(points, names, labels, names=("cats", "dogs")).legends
    assert [text.get_text() for text in legend.get_texts()] == ["cats", "dogs"]


@pytest.mark.usefixtures("low_resolution")
def test_the_model_of_a_folder_is_drawn_with_the_names_of_its_classes(tmp_path: Path) -> None:
    for number in range(40):
        folder = tmp_path / "pictures" / ("cats", "dogs")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 6), 2 * number).save(folder / f"{number}.png")
    checkpoint, data = tmp_path / "pets.safetensors", ["--data-dir", str(tmp_path)]
    dataset = ["--dataset", f"folder:{tmp_path / 'pictures'}", *data]
    network = ["--epochs", "1", "--hidden-dim", "4", "--latent-dim", "1", "--device", "cpu"]
    assert main(["fit", *dataset, *network, "--out", str(checkpoint)]) == 0
    assert vae.load(checkpoint).training["classes"] == ["cats", "dogs"]
    assert main(["plot", str(checkpoint), *dataset, "--out", str(tmp_path / "plots")]) == 0
    page = (tmp_path / "plots" / "latent3d.html").read_text(encoding="utf-8")
    assert set(re.findall(r'"name":"(\w+)"', page)) >= {"cats", "dogs"}


def test_many_classes_have_a_colour_each() -> None:
    points, names = scatter.project(torch.randn(94, 2))
    figure = scatter.latent_scatter(points, names, torch.arange(94) % 47)
    assert len({trace.marker.color for trace in figure.data}) == 47


def test_three_dimensions_are_shown_as_they_are() -> None:
    latents = torch.randn(50, 3)
    points, names = scatter.project(latents)
    assert np.array_equal(points, latents.numpy())
    assert names == ["z1", "z2", "z3"]


def test_more_dimensions_are_shown_by_their_principal_components() -> None:
    latents = torch.zeros(1000, 5)
    spread = {3: 5.0, 0: 2.0, 4: 1.0}
    for column, (dimension, scale) in enumerate(spread.items()):
        latents[:, dimension] = scale * torch.randn(1000, generator=torch.Generator().manual_seed(column)) + 7
    points, names = scatter.project(latents)
    assert np.allclose(points.std(0), list(spread.values()), rtol=0.1)
    assert np.allclose(points.mean(0), 0, atol=1e-4)
    variance = points.var(0) / points.var(0).sum()
    assert names == [f"principal component {i + 1} ({variance[i]:.0%} of variance)" for i in range(3)]


def test_one_test_image_of_each_digit_is_above_its_reconstruction(fitted: Path, data_dir: Path) -> None:
    model, test = vae.load(fitted).model, load_builtin("mnist", data_dir, train=False)
    images = shown(grids.reconstructions(model, test))
    assert len(images) == 20
    for digit in range(10):
        x = test.images[int((test.labels == digit).nonzero()[0])].float() / 255
        assert np.allclose(images[digit], x[0])
        decoded = torch.sigmoid(model.decode(model.encode(x.unsqueeze(0))[0]))
        assert np.allclose(images[10 + digit], decoded[0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ([5, 5, 3, 5, 3], [2, 0, 4, 1, 3]),  # 3 comes before 5, and each class has its turn
        ([NO_LABEL] * 12, list(range(10))),
        (list(range(12)), list(range(10))),
        ([7], [0]),
    ],
)
def test_examples_are_taken_from_each_class_in_turn(labels: list[int], chosen: list[int]) -> None:
    assert grids.examples(torch.tensor(labels)) == chosen


def test_an_interpolation_is_a_straight_line_between_two_digits(fitted: Path, data_dir: Path) -> None:
    model, test = vae.load(fitted).model, load_builtin("mnist", data_dir, train=False)
    images = shown(grids.interpolations(model, test, steps=5))
    assert len(images) == 5 * (5 + 2)
    start, end = (test.images[int((test.labels == digit).nonzero()[0])].float() / 255 for digit in (2, 3))
    second_row = images[7:14]
    assert np.allclose(second_row[0], start[0])
    assert np.allclose(second_row[-1], end[0])
    z0, z1 = model.encode(torch.stack([start, end]))[0]
    for step, image in enumerate(second_row[1:-1]):
        decoded = torch.sigmoid(model.decode(((1 - step / 4) * z0 + step / 4 * z1).unsqueeze(0)))
        assert np.allclose(image, decoded[0, 0], atol=1e-5)


def test_the_most_unusual_image_comes_first(fitted: Path, data_dir: Path) -> None:
    model, test = vae.load(fitted).model, load_builtin("mnist", data_dir, train=False)
    factors = torch.arange(len(test)).float().roll(7)  # the highest is that of the image 6
    panels = shown(grids.unusual(model, test, factors, 3))
    x = to_pixels(test.images[[6, 5, 4]])
    decoded = model.decode(model.encode(x)[0])
    losses = model.pixel_losses(decoded, x).numpy()
    for row, expected in enumerate((x.numpy(), model.to_image_(decoded).numpy(), losses)):
        for panel, image in zip(panels[3 * row : 3 * row + 3], expected, strict=True):
            scaled = (image - image.min()) / np.ptp(image) if row == 2 else image
            assert np.allclose(panel.squeeze(), scaled[0], atol=1e-5)


def test_a_single_test_image_can_be_drawn(fitted: Path) -> None:
    alone = Dataset("one", torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.tensor([NO_LABEL]))
    assert len(shown(grids.interpolations(vae.load(fitted).model, alone, steps=3))) == 5


def test_samples_follow_their_seed(fitted: Path) -> None:
    model = vae.load(fitted).model

    def first(seed: int) -> object:
        return shown(grids.samples(model, seed, side=2))[0].tolist()

    assert first(0) == first(0) != first(1)


def test_the_manifold_is_decoded_over_the_priors_quantiles() -> None:
    torch.manual_seed(0)
    model = vae.VAE(vae.VAEConfig(image_shape=(3, 2, 4), hidden_dim=8, latent_dim=4)).requires_grad_(False)
    (picture,) = shown(manifold.manifold(model, (1, 3), side=5))
    assert picture.shape == (5 * 2, 5 * 4, 3)
    normal = NormalDist()
    for row in range(5):
        for column in range(5):
            z = torch.zeros(1, 4)
            z[0, 1] = normal.inv_cdf((column + 0.5) / 5)
            z[0, 3] = normal.inv_cdf((5 - row - 0.5) / 5)  # upwards
            decoded = torch.sigmoid(model.decode(z))[0].permute(1, 2, 0)
            tile = picture[2 * row : 2 * row + 2, 4 * column : 4 * column + 4]
            assert np.allclose(tile, decoded, atol=1e-6)


def test_images_are_those_of_the_models_likelihood() -> None:
    torch.manual_seed(0)
    config = vae.VAEConfig(image_shape=(1, 6, 6), hidden_dim=8, likelihood="gaussian", scale="pixel")
    model = vae.VAE(config).requires_grad_(False)
    test = Dataset("two", torch.randint(0, 256, (2, 1, 6, 6), dtype=torch.uint8), torch.arange(2))
    mean = model.encode(to_pixels(test.images))[0]
    decoded = model.decode(mean)[:, 0].clamp(0, 1).numpy()
    assert np.allclose(shown(grids.reconstructions(model, test))[2:], decoded, atol=1e-6)
    assert np.allclose(shown(grids.interpolations(model, test, steps=2))[1:3], decoded, atol=1e-6)
    (sheet,) = shown(grids.samples(model, seed=0, side=1))
    z = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    assert np.allclose(sheet[:6, :6, 0], model.decode(z)[0, 0].clamp(0, 1), atol=1e-6)
    (sheet,) = shown(manifold.manifold(model, (0,), side=1))
    assert np.allclose(sheet[..., 0], model.decode(torch.zeros(1, 3))[0, 0].clamp(0, 1), atol=1e-6)


def test_quantiles_are_equally_likely() -> None:
    expected = [NormalDist().inv_cdf((i + 0.5) / 21) for i in range(21)]
    assert np.allclose(manifold.quantiles(21), expected, atol=1e-12)


def test_of_many_dimensions_the_four_most_used_are_drawn() -> None:
    assert manifold.pairs_to_draw(torch.tensor([1.0])) == [(0,)]
    assert manifold.pairs_to_draw(torch.tensor([1.0, 2.0, 3.0])) == [(0, 1), (0, 2), (1, 2)]
    six = manifold.pairs_to_draw(torch.tensor([5.0, 0.1, 3.0, 9.0, 0.2, 4.0]))
    assert six == [(0, 2), (0, 3), (0, 5), (2, 3), (2, 5), (3, 5)]


def test_loss_curves_are_the_history_that_fit_wrote(fitted: Path) -> None:
    path = fitted.with_suffix(".history.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    panels = curves.loss_curves(curves.read_history(path)).axes
    for panel, key in zip(panels, ("reconstruction_loss", "kl_divergence"), strict=True):
        for line, part in zip(panel.lines, ("train", "validation"), strict=True):
            assert line.get_xydata() == pytest.approx(
                np.array([[each["epoch"], each[f"{part}_{key}"]] for each in lines])
            )


def test_loss_curves_without_validation_have_one_line() -> None:
    figure = curves.loss_curves([{"epoch": 1.0, "train_reconstruction_loss": 150.0, "train_kl_divergence": 5.0}])
    assert [len(panel.lines) for panel in figure.axes] == [1, 1]


@pytest.mark.parametrize("content", ["{", "3\n", '{"epoch": null}\n', '{"epoch": "one"}\n', '{"seconds": 1.0}\n'])
def test_a_damaged_history_is_an_error(
    content: str, fitted: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(fitted.read_bytes())
    copy.with_suffix(".history.jsonl").write_text(content)
    assert main(["plot", str(copy), "--out", str(tmp_path / "plots"), "--data-dir", str(data_dir)]) == 1
    assert "copy.history.jsonl is not the history of a training" in capsys.readouterr().err


@pytest.mark.usefixtures("low_resolution")
def test_plot_takes_colour_pictures_without_labels_or_history_and_many_dimensions(
    new_checkpoint: Callable[[vae.VAEConfig], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 256, (40, 3, 6, 8), np.uint8))
    path = new_checkpoint(vae.VAEConfig(image_shape=(3, 6, 8), hidden_dim=4, latent_dim=5))
    out = tmp_path / "plots"
    assert main(["plot", str(path), "--out", str(out), "--dataset", f"npy:{tmp_path / 'noise.npy'}"]) == 0
    printed = capsys.readouterr()
    assert "latent5.history.jsonl: the loss curves are omitted." in printed.err
    assert "drawn for the 4 dimensions with the largest KL divergence: z" in printed.err
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(Path(line).name for line in printed.out.splitlines())
    assert len([name for name in names if name.startswith("manifold-")]) == 6
    assert {"interpolations.png", "latents.png", "reconstructions.png", "samples.png"} < set(names)
    assert "losses.png" not in names


@pytest.mark.usefixtures("low_resolution")
def test_plot_takes_a_two_dimensional_model(new_checkpoint: Callable[[vae.VAEConfig], Path], tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 256, (20, 6, 8), np.uint8))
    path = new_checkpoint(vae.VAEConfig(image_shape=(1, 6, 8), hidden_dim=4, latent_dim=2))
    data = ["--dataset", f"npy:{tmp_path / 'noise.npy'}", "--data-dir", str(tmp_path)]
    assert main(["plot", str(path), "--out", str(tmp_path / "plots"), *data]) == 0
    assert "scattergl" in (tmp_path / "plots" / "latent3d.html").read_text(encoding="utf-8")
