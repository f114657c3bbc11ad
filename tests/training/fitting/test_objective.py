"""The objectives beside the ELBO, against their definitions."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vae
from training.__main__ import main
from training.config.fit_config import FitConfig
from training.config.options import ConfigError
from training.data.builtin import load_builtin
from training.data.dataset import Dataset, to_pixels
from training.fitting import loop
from training.fitting.distributed import Processes
from training.fitting.initialization import VAELoss, new_model
from training.fitting.optimizers import require_precision
from training.metrics.importance import importance_weighted_bound
from vae.model import reparameterize
from vae.objective import log_importance_weight

pytestmark = pytest.mark.slow

ALONE = Processes(0, 1, torch.device("cpu"))
CONFIG = FitConfig(hidden_dim=8, batch_size=100, optimizer="adam", warmup_steps=0, input_dropout=0, device="cpu")


@pytest.fixture(scope="module")
def train(data_dir: Path) -> Dataset:
    return load_builtin("mnist", data_dir, train=True)


def gradients(model: vae.VAE) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def step_gradients(
    config: FitConfig, train: Dataset, monkeypatch: pytest.MonkeyPatch, weight: float = 1
) -> list[Tensor]:
    """Gradients of one step on the first hundred images, as the optimizer gets them."""
    state = loop.new_state(config, new_model(config, train), ALONE.device)
    seen: list[Tensor] = []
    monkeypatch.setattr(state.optimizers[0], "step", lambda: seen.extend(gradients(state.model)))
    loss = VAELoss(state.model, importance_weighted=config.importance_samples > 1)
    loop.train_step(config, state, loss, train.images[:100], 100, ALONE, kl_weight=weight, affine=False)
    return seen


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(tensor.square().sum().item() for tensor in tensors))


def test_free_bits_hold_each_dimension_of_the_batch_at_its_least() -> None:
    kl = torch.tensor([30.0, 9.0, 10.1], requires_grad=True)  # sums over ten images
    bounded = loop.free_bits(kl, 1.0, 10, 10, ALONE)
    bounded.backward()
    assert bounded.item() == pytest.approx(10 * (3.0 + 1.0 + 1.01))
    assert kl.grad is not None
    assert kl.grad.tolist() == [1, 0, 1]
    assert loop.free_bits(kl, 0.0, 10, 10, ALONE).item() == pytest.approx(49.1)


def test_free_bits_are_those_of_the_batch_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = torch.tensor([4.0, 4.0], requires_grad=True), torch.tensor([5.0, 7.0])  # sums over five images each
    monkeypatch.setattr(Processes, "all_reduce", lambda _, tensor: tensor + theirs)
    bounded = loop.free_bits(ours, 1.0, 5, 10, Processes(0, 2, torch.device("cpu")))
    bounded.backward()
    assert bounded.item() == 5 + 4
    assert ours.grad is not None
    assert ours.grad.tolist() == [0, 1]


def test_kl_that_is_free_does_not_move_the_weights(train: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    free = step_gradients(replace(CONFIG, free_bits=100.0), train, monkeypatch)
    without = step_gradients(CONFIG, train, monkeypatch, weight=0)
    costly = step_gradients(CONFIG, train, monkeypatch)
    assert all(one.equal(other) for one, other in zip(free, without, strict=True))
    assert not all(one.equal(other) for one, other in zip(free, costly, strict=True))


def test_the_kl_weight_rises_linearly_to_beta() -> None:
    config = replace(CONFIG, beta=4, kl_warmup_epochs=2)
    assert [loop.kl_weight(config, step, 5) for step in (0, 4, 9, 10, 40)] == pytest.approx([0.4, 2, 4, 4, 4])
    assert loop.kl_weight(replace(config, kl_warmup_epochs=0), 0, 5) == 4


def test_a_training_uses_the_kl_weight_of_its_step(train: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[float] = []
    train_step = loop.train_step

    def recorded(*arguments: object, kl_weight: float, affine: bool) -> None:
        weights.append(kl_weight)
        train_step(*arguments, kl_weight=kl_weight, affine=affine)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_step", recorded)
    config = replace(CONFIG, epochs=3, kl_warmup_epochs=2)
    list(loop.train_epochs(config, loop.new_state(config, new_model(config, train), ALONE.device), train, ALONE))
    assert weights == pytest.approx([0.125 * step for step in range(1, 9)] + [1] * 4)


def test_the_importance_weighted_loss_is_the_bound_and_its_gradient(train: Dataset) -> None:
    model = new_model(CONFIG, train)
    x, noise = to_pixels(train.images[:20]), torch.randn(20, 7, 3, generator=torch.Generator().manual_seed(0))
    _, _, bound = VAELoss(model, importance_weighted=True)(x, x, noise)
    bound.backward()
    found = gradients(model)
    model.zero_grad()
    mean, log_variance = model.encode(x)
    weights = []
    for each in noise.unbind(1):
        z = reparameterize(mean, log_variance, noise=each)
        weights.append(log_importance_weight(model.decode(z), x, z, mean, log_variance).double())
    expected = -(torch.stack(weights).exp().mean(0)).log().sum()
    expected.backward()
    assert bound.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(found, gradients(model), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)


def test_losses_are_averages_over_the_samples(train: Dataset) -> None:
    model, x = new_model(CONFIG, train), to_pixels(train.images)
    noise = torch.randn(400, 50, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        singles = [VAELoss(model)(x, x, each.unsqueeze(1)) for each in noise.unbind(1)]
        reconstruction, kl, _ = VAELoss(model)(x, x, noise)
        estimated, same_kl, bound = VAELoss(model, importance_weighted=True)(x, x, noise)
    assert reconstruction.item() == pytest.approx(sum(single[0].item() for single in singles) / 50, rel=1e-5)
    assert kl.equal(same_kl)
    assert kl.equal(singles[0][1])
    assert estimated.item() == pytest.approx(reconstruction.item(), rel=1e-3)
    assert bound.item() < (reconstruction + kl.sum()).item()  # the bound is above the ELBO
    weighted = importance_weighted_bound(model, train.images, 50, 0).sum().item()
    assert bound.item() == pytest.approx(-weighted, rel=1e-3)


def test_a_training_draws_its_posterior_samples(train: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []
    forward = VAELoss.forward

    def recorded(loss: VAELoss, x: Tensor, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shapes.append(noise.shape)
        return forward(loss, x, seen, noise)

    monkeypatch.setattr(VAELoss, "forward", recorded)
    for config in (replace(CONFIG, posterior_samples=4), replace(CONFIG, importance_samples=5)):
        step_gradients(config, train, monkeypatch)
    assert shapes == [(100, 4, 3), (100, 5, 3)]


def test_a_training_by_the_bound_records_it_and_keeps_the_epoch_by_it(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    options = ["--epochs", "3", "--hidden-dim", "8", "--batch-size", "50", "--device", "cpu"]
    command = ["fit", "--data-dir", str(data_dir), "--out", str(out), *options, "--importance-samples", "5"]
    assert main(command) == 0
    history = [json.loads(line) for line in out.with_suffix(".history.jsonl").read_text().splitlines()]
    for line in history:
        for part in ("train", "validation"):
            assert line[f"{part}_neg_importance_weighted_bound"] < line[f"{part}_neg_elbo"] + 0.1  # by a few samples
    best = min(history, key=lambda line: line["validation_neg_importance_weighted_bound"])
    assert vae.load(out).training["kept_epoch"] == best


def test_gradients_are_clipped_to_the_norm(train: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = step_gradients(CONFIG, train, monkeypatch)
    clipped = step_gradients(replace(CONFIG, clip_grad_norm=0.5), train, monkeypatch)
    assert norm(whole) > 1
    assert norm(clipped) == pytest.approx(0.5, rel=1e-4)
    for one, other in zip(whole, clipped, strict=True):
        assert torch.allclose(one * (0.5 / norm(whole)), other, atol=1e-6)
    unclipped = step_gradients(replace(CONFIG, clip_grad_norm=1e6), train, monkeypatch)
    assert all(one.equal(other) for one, other in zip(whole, unclipped, strict=True))


def test_bfloat16_is_for_the_networks_alone(train: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(CONFIG, train)
    dtypes = []
    for part in (model.encoder, model.mean_layer, model.decoder):
        part.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    x, noise = to_pixels(train.images[:50]), torch.zeros(50, 1, 3)
    terms = [sum(VAELoss(model, precision)(x, x, noise)[:2]).sum().item() for precision in ("float32", "bf16")]
    assert dtypes == [torch.float32] * 3 + [torch.bfloat16] * 3
    assert terms[0] != terms[1] == pytest.approx(terms[0], rel=0.01)
    assert all(term.dtype == torch.float32 for term in VAELoss(model, "bf16")(x, x, noise))
    monkeypatch.setattr("training.fitting.optimizers.fast_dtype", lambda _: torch.float32)
    with pytest.raises(ConfigError, match="cpu does not compute in bfloat16 or only emulates it, slowly; give"):
        require_precision("bf16", ALONE.device)
    require_precision("float32", ALONE.device)


def test_a_training_is_computed_in_its_precision(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fitting.optimizers.fast_dtype", lambda _: torch.bfloat16)
    losses = []
    for precision in ("float32", "bf16"):
        out = tmp_path / f"{precision}.safetensors"
        options = ["--epochs", "1", "--hidden-dim", "8", "--optimizer", "adam", "--precision", precision]
        assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), "--device", "cpu", *options]) == 0
        losses.append(vae.load(out).training["last_epoch"]["train_neg_elbo"])
        assert {parameter.dtype for parameter in vae.load(out).model.parameters()} == {torch.float32}
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.01)
