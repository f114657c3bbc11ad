"""Training on a GPU with tensors that have a device but no values: operations across devices raise an error."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from training.config.fit_config import FitConfig
from training.data.dataset import Dataset, to_pixels
from training.fitting.augmentation import FLIP_CROP_NUMBERS, random_flip_crop
from training.fitting.distributed import Processes
from training.fitting.initialization import VAELoss
from training.fitting.loop import epoch_order, train_step
from training.fitting.optimizers import new_optimizers, set_learning_rates
from training.fitting.state import TrainingState
from training.metrics import elbo, importance
from training.metrics.elbo import evaluate, squared_error
from training.metrics.importance import importance_weighted_bound
from training.metrics.posterior import Posterior
from vae import VAE, VAEConfig, score

GPU = Processes(0, 1, torch.device("cuda"))
SHARED = Processes(1, 2, torch.device("cuda"))
MLP = VAEConfig(hidden_dim=8)
CONV = VAEConfig("conv", hidden_dim=8)
LOGISTIC = VAEConfig(hidden_dim=8, likelihood="logistic", scale="pixel")
MAP = VAEConfig("resnet", hidden_dim=8, latent_map=(2, 7, 7))
NETWORKS = pytest.mark.parametrize("network", [MLP, CONV, MAP, LOGISTIC], ids=["mlp", "conv", "map", "logistic"])
CONFIG = FitConfig(
    hidden_dim=8, batch_size=4, input_dropout=0.1, free_bits=0.1, clip_grad_norm=1, ema=0.9, augment="flip,crop"
)


@pytest.fixture(autouse=True)
def fake_tensors() -> Iterator[None]:
    """Use tensors without values; with a ShapeEnv, reading a value gives a symbol."""
    with FakeTensorMode(shape_env=ShapeEnv()):
        yield


def digits(device: str) -> Dataset:
    images = torch.zeros(10, 1, 28, 28, dtype=torch.uint8, device=device)
    return Dataset("digits", images, torch.zeros(10, dtype=torch.int64, device=device))


def model_on_the_gpu(config: VAEConfig) -> VAE:
    with torch.device("cuda"):
        return VAE(config)


def noise_without_values(x: Tensor, mean: Tensor, samples: int, _: int) -> Tensor:
    return torch.zeros(len(x), samples, *mean.shape[1:], device=mean.device)


def test_tensors_of_two_devices_do_not_meet() -> None:
    with pytest.raises(FakeTensorDeviceMismatchError):
        torch.zeros(2, device="cuda").index_select(0, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("images", ["cuda", "cpu"])
@pytest.mark.parametrize("indices", ["cuda", "cpu"])
def test_images_are_taken_by_indices_of_either_device(images: str, indices: str) -> None:
    taken = digits(images).take(epoch_order(CONFIG, 0, 10)[:3].to(indices))
    assert taken.shape == (3, 1, 28, 28)
    assert taken.device.type == images


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@NETWORKS
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("encoder_alone", [False, True], ids=["both", "encoder"])
@pytest.mark.parametrize("processes", [GPU, SHARED], ids=["alone", "shared"])
def test_a_step(
    *,
    optimizer: str,
    network: VAEConfig,
    samples: int,
    encoder_alone: bool,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(CONFIG, optimizer=optimizer, architecture=network.architecture)
    if samples > 1:
        config = replace(config, importance_samples=samples, free_bits=0)
    model = model_on_the_gpu(network)
    optimizers = new_optimizers(config, model)
    generator = torch.Generator()  # without a GPU none of CUDA can be made; tensors without values take any
    sums, loss_sum = torch.zeros(2, device="cuda"), torch.zeros((), device="cuda")
    state = TrainingState(model, optimizers, generator, sums, loss_sum, model_on_the_gpu(network).requires_grad_(False))
    model.decoder.requires_grad_(not encoder_alone)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def backward(loss: Tensor) -> None:
        """Replace the engine, which needs a CUDA context even for tensors without values."""
        assert loss.shape == ()
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(Processes, "all_reduce", lambda _, tensor: tensor)
    train = digits("cuda")
    for step, indices in enumerate(epoch_order(config, 0, len(train)).split(config.batch_size)):
        set_learning_rates(optimizers, config, step, 3)
        images = train.take(processes.shard(indices))
        numbers = torch.zeros(len(images), FLIP_CROP_NUMBERS, device="cuda")
        images = random_flip_crop(images, numbers, config.augmentations)
        train_step(
            config,
            state,
            VAELoss(model, importance_weighted=samples > 1),
            images,
            len(indices),
            processes,
            kl_weight=0.5,
            affine=encoder_alone,
        )
    assert len(optimizers) == (2 if optimizer == "muon" else 1)
    assert {tensor.device.type for tensor in (*model.parameters(), state.sums, state.loss_sum)} == {"cuda"}


@pytest.mark.parametrize("images", ["cuda", "cpu"])
@NETWORKS
def test_measuring(network: VAEConfig, images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (elbo, importance, score):
        monkeypatch.setattr(module, "posterior_noise", noise_without_values)
    model, pictures = model_on_the_gpu(network).requires_grad_(False), digits(images).images
    evaluate(model, pictures, draws=2, seed=0)
    squared_error(model, pictures)
    assert importance_weighted_bound(model, pictures, samples=3, seed=0).device.type == "cpu"
    assert model.score(to_pixels(pictures.cuda()), samples=3).elbo.device.type == "cuda"
    posterior = Posterior.of(model, pictures)
    assert posterior.mean.device.type == posterior.log_variance.device.type == "cpu"
