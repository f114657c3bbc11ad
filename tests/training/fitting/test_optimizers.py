import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training import processes
from training.__main__ import main
from training.config.fit_config import FitConfig
from training.fitting.muon import FLOAT32_INTERVAL, ITERATIONS, Muon, fast_dtype, orthogonalize
from training.fitting.optimizers import (
    ADAM_RATE,
    describe_optimizers,
    describe_warmup,
    new_optimizers,
    rate_factor,
    set_learning_rates,
)
from vae import VAE, VAEConfig

CONFIG = FitConfig(hidden_dim=8)
SHAPES = [(12, 24), (16, 16), (24, 12)]


def test_learning_rate_warms_up_and_decays() -> None:
    cosine = FitConfig(warmup_steps=10)
    assert [rate_factor(cosine, step, 110) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert rate_factor(cosine, 60, 110) == pytest.approx(0.5)
    assert rate_factor(cosine, 109, 110) == pytest.approx(0, abs=1e-3)
    constant = replace(cosine, lr_schedule="constant")
    assert [rate_factor(constant, step, 110) for step in (4, 60, 109)] == [0.5, 1.0, 1.0]


def test_a_long_warm_up_takes_half_of_the_training() -> None:
    config = FitConfig(warmup_steps=50, epochs=2, encoder_epochs=1)
    assert [rate_factor(config, step, 20) for step in (0, 9, 10)] == [0.1, 1.0, 1.0]
    assert rate_factor(config, 19, 20) < 0.1
    assert rate_factor(config, 0, 1) == 1
    assert describe_warmup(config, 10) == (
        "The warm-up of 50 steps is cut to 10 steps, half of the training and to 5 steps, half of the epochs of the "
        "encoder alone."
    )
    assert describe_warmup(config, 50) == (
        "The warm-up of 50 steps is cut to 25 steps, half of the epochs of the encoder alone."
    )
    assert not describe_warmup(config, 100)


def test_muon_takes_the_matrices_between_wide_layers_at_its_own_rate() -> None:
    config = replace(CONFIG, learning_rate=4e-3, adam_learning_rate=1e-3)
    model = VAE(VAEConfig(hidden_dim=8))
    names = {parameter: name for name, parameter in model.named_parameters()}
    adam, muon = optimizers = new_optimizers(config, model)
    assert isinstance(muon, torch.optim.Muon)
    taken = {names[parameter] for parameter in muon.param_groups[0]["params"]}
    assert taken == {f"{part}.weight" for part in ("encoder.0", "encoder.2", "decoder.2", "decoder.4")}
    left = {names[parameter] for parameter in adam.param_groups[0]["params"]}
    assert taken | left == set(names.values())
    assert not taken & left
    set_learning_rates(optimizers, config, 24, 100)  # of 50 steps of warm-up
    assert [each.param_groups[0]["lr"] for each in optimizers] == [0.5e-3, 2e-3]
    description = describe_optimizers(config, optimizers)
    assert description.startswith("Muon in ")
    assert ": learning rate 0.004, 12,672 parameters. Adam: learning rate 0.001, 894 parameters." in description


@pytest.mark.parametrize("network", [VAEConfig(hidden_dim=3), VAEConfig(hidden_dim=8, latent_dim=8)], ids=str)
def test_without_a_matrix_for_muon_adam_keeps_its_own_rate(network: VAEConfig) -> None:
    (adam,) = optimizers = new_optimizers(CONFIG, VAE(network))
    assert isinstance(adam, torch.optim.Adam)
    assert adam.param_groups[0]["lr"] == ADAM_RATE < CONFIG.learning_rate
    printed = describe_optimizers(CONFIG, optimizers)
    assert printed.startswith(
        "Muon trains nothing: no matrix has both sides above --latent-dim. Adam: learning rate 0.003, "
    )


def test_convolutions_are_adams_at_its_own_rate() -> None:
    model = VAE(VAEConfig("conv", hidden_dim=8))
    adam, muon = new_optimizers(replace(CONFIG, architecture="conv"), model)
    assert {parameter.ndim for parameter in muon.param_groups[0]["params"]} == {2}
    assert {parameter.ndim for parameter in adam.param_groups[0]["params"]} == {1, 2, 4}
    assert [each.param_groups[0]["lr"] for each in (adam, muon)] == [ADAM_RATE, CONFIG.learning_rate]
    slow, _ = new_optimizers(replace(CONFIG, architecture="conv", learning_rate=1e-3), model)
    assert slow.param_groups[0]["lr"] == 1e-3
    given, _ = new_optimizers(replace(CONFIG, architecture="conv", adam_learning_rate=4e-3), model)
    assert given.param_groups[0]["lr"] == 4e-3


@pytest.mark.parametrize("latents", [{"latent_dim": 5}, {"latent_map": (8, 4, 4)}], ids=str)
def test_convolutions_of_a_resnet_are_muon_s(latents: dict[str, Any]) -> None:
    """But for the heads, and for those of the image's channels."""
    model = VAE(VAEConfig("resnet", (3, 8, 8), hidden_dim=16, **latents))
    names = {parameter: name for name, parameter in model.named_parameters()}
    adam, muon = new_optimizers(replace(CONFIG, architecture="resnet"), model)
    taken = {names[parameter] for parameter in muon.param_groups[0]["params"]}
    kernels = {name for name, parameter in model.named_parameters() if parameter.ndim == 4}
    heads = {"mean_layer.weight", "log_variance_layer.weight"}
    assert taken == kernels - heads - {"encoder.1.weight", f"decoder.{len(model.decoder) - 1}.weight"}
    assert [each.param_groups[0]["lr"] for each in (adam, muon)] == [ADAM_RATE, CONFIG.learning_rate]


def test_the_weights_of_a_convolution_are_a_matrix() -> None:
    kernels, flat = (
        [nn.Parameter(torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0)).view(shape))]
        for shape in [(8, 6, 3, 3), (8, 54)]
    )
    kernels[0].data = kernels[0].data.contiguous(memory_format=torch.channels_last)
    for parameters in (kernels, flat):
        optimizer = Muon(parameters, 0.1, torch.bfloat16)
        for seed in range(3):
            gradient = torch.randn(8, 54, generator=torch.Generator().manual_seed(seed))
            parameters[0].grad = gradient.view(parameters[0].shape)
            optimizer.step()
    assert kernels[0].flatten(1).equal(flat[0])


def test_beside_muon_an_mlp_s_narrow_layers_have_its_rate() -> None:
    adam, muon = new_optimizers(CONFIG, VAE(VAEConfig(hidden_dim=8)))
    assert adam.param_groups[0]["lr"] == muon.param_groups[0]["lr"] == CONFIG.learning_rate


def test_adam_alone_has_the_learning_rate() -> None:
    config = replace(CONFIG, optimizer="adam", learning_rate=2e-3)
    (adam,) = optimizers = new_optimizers(config, VAE(VAEConfig(hidden_dim=8)))
    assert adam.param_groups[0]["lr"] == 2e-3
    assert describe_optimizers(config, optimizers) == "Adam: learning rate 0.002, 13,566 parameters."


def matrices(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def trained(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(parameters, matrices(seed=step + 1), strict=True):
            parameter.grad = gradient.detach()
        optimizer.step()


def test_in_bfloat16_it_is_torchs_muon_to_the_bit() -> None:
    ours, theirs = matrices(), matrices()
    torchs = torch.optim.Muon(theirs, 0.1, weight_decay=0, ns_steps=ITERATIONS, adjust_lr_fn="match_rms_adamw")
    trained(Muon(ours, 0.1, torch.bfloat16), ours, range(3))
    trained(torchs, theirs, range(3))
    assert all(one.equal(other) for one, other in zip(ours, theirs, strict=True))
    assert not ours[0].equal(matrices()[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_orthogonalizes_as_bfloat16_does(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact, rounded = orthogonalize(matrix), orthogonalize(matrix.bfloat16())
    assert exact.dtype == torch.float32
    assert torch.dist(exact, rounded.float()) < 0.02 * exact.norm()
    assert torch.linalg.svdvals(exact).max().item() < 1.3
    assert orthogonalize(torch.zeros(shape)).equal(torch.zeros(shape))


def test_in_float32_each_matrix_is_updated_at_every_fourth_step() -> None:
    parameters = matrices()
    optimizer = Muon(parameters, 0.1, torch.float32)
    updated = []
    for step in range(2 * FLOAT32_INTERVAL):
        before = [parameter.clone() for parameter in parameters]
        trained(optimizer, parameters, range(step, step + 1))
        updated.append([not old.equal(new) for old, new in zip(before, parameters, strict=True)])
    assert [sum(steps) for steps in zip(*updated, strict=True)] == [2, 2, 2]
    assert max(sum(matrices) for matrices in updated) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_state_can_be_resumed(dtype: torch.dtype) -> None:
    whole, cut = matrices(), matrices()
    trained(Muon(whole, 0.1, dtype), whole, range(11))
    first, second = Muon(cut, 0.1, dtype), Muon(cut, 0.1, dtype)
    trained(first, cut, range(6))
    second.load_state_dict(first.state_dict())
    trained(second, cut, range(6, 11))
    assert all(one.equal(other) for one, other in zip(whole, cut, strict=True))


def test_a_gpu_computes_in_bfloat16() -> None:
    assert fast_dtype(torch.device("cuda")) == torch.bfloat16


def write_fast_dtype(file: Path) -> None:
    os.environ["ATEN_CPU_CAPABILITY"] = "avx2"  # torch reads it at its first operation
    file.write_text(str(fast_dtype(torch.device("cpu"))))


def test_without_instructions_for_bfloat16_it_is_float32(tmp_path: Path) -> None:
    assert processes.run(tmp_path / "log", write_fast_dtype, tmp_path / "dtype") == 0
    assert (tmp_path / "dtype").read_text() == "torch.float32"


@pytest.fixture
def fit_output(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `vae-train fit` on the small data set with the given options and return its output."""

    def fit(*options: str) -> str:
        paths = ["--data-dir", str(data_dir), "--out", str(tmp_path / "a.safetensors"), "--device", "cpu"]
        assert main(["fit", *paths, *options]) == 0
        return capsys.readouterr().out

    return fit


def test_fit_prints_its_optimizers_and_a_shortened_warm_up(fit_output: Callable[..., str], tmp_path: Path) -> None:
    output = fit_output("--hidden-dim", "3", "--epochs", "2", "--validation", "0", "--lr-schedule", "constant")
    assert "Muon trains nothing: " in output
    assert "The warm-up of 50 steps is cut to 2 steps, half of the training.\n" in output
    history = (tmp_path / "a.history.jsonl").read_text().splitlines()
    assert [json.loads(line)["learning_rate"] for line in history] == [0.003, 0.003]
