"""Metrics within a time limit, and the number of images that they are means over."""

import math
import time

import torch
from torch import Tensor

import vae
from training.data.dataset import NO_LABEL, Dataset
from training.metrics.budget import Budget
from training.metrics.elbo import evaluate
from training.metrics.report import as_text, left_out
from training.metrics.summary import LEAST, measure
from vae.noise import DRAWS, SEED

SLEEP = 1e-4
"""Seconds in which a `Slow` decodes a latent."""


class Slow(vae.VAE):
    """A network whose decoding time is known."""

    def decode(self, z: Tensor) -> Tensor:
        time.sleep(SLEEP * len(z))
        return super().decode(z)


def dataset(count: int, kind: int = 0) -> Dataset:
    images = torch.randint(0, 256, (count, 1, 2, 3), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)
    return Dataset("noise", images, torch.arange(count) % 2 + kind)


def new(kind: type[vae.VAE] = vae.VAE) -> vae.VAE:
    torch.manual_seed(1)
    return kind(vae.VAEConfig(image_shape=(1, 2, 3), hidden_dim=6, latent_dim=2)).requires_grad_(False).eval()


def test_as_many_images_are_taken_as_fit() -> None:
    taken: list[int] = []

    def one_ms_each(count: int) -> None:
        taken.append(count)
        time.sleep(count * 1e-3)

    fitting = Budget(2.0).images(one_ms_each, 100_000, share=1 / 2)
    assert 500 <= fitting <= 1000
    assert fitting % 100 == 0
    assert sum(taken) < 100
    taken.clear()
    assert Budget(2.0).images(one_ms_each, 5, share=1 / 2) == 5
    assert Budget(0).images(one_ms_each, 5, share=1 / 2) == 1


def test_without_a_limit_nothing_is_tried() -> None:
    tried: list[int] = []
    assert Budget(math.inf).images(tried.append, 7, share=1 / 2) == 7
    assert not tried


def test_with_enough_time_everything_is_measured() -> None:
    train, test = dataset(150), dataset(120)
    complete = measure(new(), train, test, importance_samples=2)
    assert measure(new(), train, test, importance_samples=2, seconds=1000) == complete
    assert (complete["train_images"], complete["test_images"]) == (150, 120)
    assert (complete["train_bound_images"], complete["test_bound_images"]) == (150, 120)
    assert not left_out(complete, train, test)


def test_the_figures_of_a_slow_network_take_the_time_that_they_have() -> None:
    train, test = dataset(3000), dataset(2000)
    started = time.perf_counter()
    figures = measure(Slow(new().config).eval(), train, test, importance_samples=100, seconds=1.0)
    assert time.perf_counter() - started < 1.5  # all of it takes 56
    assert LEAST <= figures["test_images"] < 2000
    assert LEAST <= figures["train_images"] < 3000
    assert "test_bound_images" not in figures
    assert "importance_samples" not in figures


def test_without_time_a_few_images_are_measured_over_the_whole_set() -> None:
    train, test = dataset(1000), dataset(900)
    figures = measure(new(), train, test, importance_samples=2, seconds=0)
    assert figures["train_images"] == figures["test_images"] == LEAST
    spread = test.images[torch.arange(LEAST) * 9]
    assert figures["test_neg_elbo"] == evaluate(new(), spread, draws=DRAWS, seed=SEED).neg_elbo
    assert not [name for name in figures if "bound" in name or "neighbour" in name or "importance" in name]
    assert left_out(figures, train, test) == [
        "100 of 900 test images were measured",
        "neighbours were sought for no test image",
        "log p(x) was bounded for 0 of 900 test images",
        "100 of 1,000 training images were measured",
        "neighbours were sought for no training image",
        "log p(x) was bounded for 0 of 1,000 training images",
    ]


def test_a_set_without_labels_misses_no_neighbours() -> None:
    unlabelled = Dataset("noise", dataset(120).images, torch.full((120,), NO_LABEL))
    assert not left_out(measure(new(), unlabelled, unlabelled, importance_samples=1), unlabelled, unlabelled)


def test_the_table_has_the_number_of_images_of_the_bound() -> None:
    figures = {"test_neg_importance_weighted_bound": 121.5, "test_bound_images": 1000, "importance_samples": 100.0}
    lines = [" ".join(line.split()) for line in as_text(figures).splitlines()]
    assert "−log p(x), upper bound, K = 100 121.50 – nats per image" in lines
    assert "– images that this is a mean over 1,000 –" in lines
