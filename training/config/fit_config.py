"""The options of `vae-train fit`, with their defaults, bounds and help."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from training.config.checks import check_network, check_training
from training.config.options import (
    AUGMENTATIONS,
    DATASETS,
    DEPTHS,
    LATENT_DIM,
    NETWORK,
    OLD_NAMES,
    RUNTIME_ONLY_FIELDS,
    VALIDATION_SHARE,
    WIDTHS,
    ConfigError,
    as_argument,
    at_least,
    flag,
    one_of,
    option,
    unset_option,
)
from training.data.tree import FOLDER_FIT, printable
from vae.config import Likelihood, Scale, VAEConfig
from vae.metadata import DEFAULT_FIT, Fit


@dataclass(frozen=True)
class FitConfig:
    """The options of `vae-train fit`; the defaults are the preset `default`. Raises ConfigError if one is invalid."""

    preset: str = option(
        "default",
        "defaults of all other options: `default` for digits, `small-colour` for colour pictures of about 32×32, "
        "`large` for pictures of 128×128, `anomaly` for finding unusual pictures, or `article` for the training of the "
        "article",
    )
    dataset: str = option(
        "mnist",
        f"images to learn: {', '.join(DATASETS)}, folder:PATH of pictures, or npy:PATH of an array",
        expected=f"one of: {', '.join(DATASETS)}, folder:PATH, npy:PATH",
        valid=lambda name: name in DATASETS or re.match("(folder|npy):.", name) is not None,
    )
    data_dir: Path = option(  # noqa: RUF009 - a Path is immutable
        Path("data"), "folder that holds the data sets, or that they are downloaded into"
    )
    image_size: int | None = unset_option(
        "height and width to which the pictures of a folder are resized",
        otherwise="not resized; all must have one size", unset=0, **at_least(0),
    )  # fmt: skip
    out: Path | None = option(  # noqa: RUF009
        Path("out/mnist.safetensors"),
        "checkpoint, written after every epoch that is kept; the latents of the test set are written beside it",
        expected="a file name that ends in .safetensors",
        valid=lambda path: path is None or (path.suffix == ".safetensors" and not path.is_dir()),
    )
    """None, from Python alone, leaves no file."""
    init_from: str | None = unset_option(
        "checkpoint whose network and weights to start from", otherwise="a new network", unset=""
    )
    epochs: int = option(10, "passes over the training images", **at_least(0))
    encoder_epochs: int = option(
        0,
        "further passes that train the encoder alone, on randomly rotated, shifted and scaled images, to reduce the "
        "amortisation gap",
        **at_least(0),
    )
    batch_size: int = option(256, "images per step", **at_least(1))
    optimizer: str = option(
        "muon",
        "`muon` for the matrices of hidden layers and Adam for the rest; or `adam` alone: quicker epochs, more of them",
        **one_of("adam", "muon"),
    )
    learning_rate: float = option(
        5e-3,
        "the optimizer's learning rate after the warm-up",
        expected="above 0",
        valid=lambda rate: 0 < rate < math.inf,
    )
    adam_learning_rate: float | None = unset_option(
        "Adam's learning rate beside Muon",
        otherwise="--learning-rate for the biases and narrow layers of an mlp, and at most 0.003 for convolutions and "
        "where no matrix is wide enough for Muon",
        unset=0.0,
        **at_least(0),
    )
    lr_schedule: str = option(
        "cosine",
        "learning rate after the warm-up: `cosine` lowers it to 0, `constant` keeps it",
        **one_of("cosine", "constant"),
    )
    warmup_steps: int = option(
        50, "steps in which the learning rate rises from 0; at most half of all steps",
        **at_least(0),
    )  # fmt: skip
    init_output_bias: bool = option(
        True, "initialise the bias of the last decoder layer so that it gives the mean training image"
    )
    input_dropout: float = option(
        0.1,
        "probability that a pixel is hidden from the encoder; the target keeps it",
        expected="at least 0 and below 1",
        valid=lambda share: 0 <= share < 1,
    )
    beta: float = option(
        1.0,
        "weight of the KL divergence in the loss (Higgins et al. 2017); 1 minimises −ELBO",
        **at_least(0),
    )
    free_bits: float = option(
        0.0,
        "nats of KL divergence that each latent dimension has for free, on average over a batch (Kingma et al. 2016); "
        "0 minimises all of it",
        **at_least(0),
    )
    kl_warmup_epochs: int = option(
        0,
        "epochs in which the weight of the KL divergence rises linearly to --beta (Bowman et al. 2016, Sønderby et al. "
        "2016)",
        **at_least(0),
    )
    posterior_samples: int = option(
        1,
        "posterior samples per image that the reconstruction loss is averaged over (Kingma & Welling 2014): more of "
        "them make its gradient less noisy and take longer",
        **at_least(1),
    )
    importance_samples: int = option(
        1,
        "posterior samples per image of the importance-weighted bound that is maximised (Burda et al. 2016); with 1, "
        "that is the ELBO",
        **at_least(1),
    )
    augment: str | None = unset_option(
        "random changes of the training images: `flip` mirrors half of them, `crop` shifts them by up to an eighth of "
        "their sides, with reflected borders; or `flip,crop`",
        otherwise="none",
        unset="",
        expected=f"names out of {', '.join(AUGMENTATIONS)}, separated by commas",
        valid=lambda names: set(names.split(",")) <= set(AUGMENTATIONS),
    )
    precision: str = option(
        "float32",
        "precision of the networks in training: `bf16` is autocast to bfloat16, on devices that have it; metrics are "
        "always float32",
        **one_of("float32", "bf16"),
    )
    keep: str = option(
        "best",
        "weights in the checkpoint: of the epoch with the lowest validation loss (`best`; of the last one if no images "
        "are held out), or of the `last` epoch",
        **one_of("best", "last"),
    )
    patience: int = option(
        0, "epochs without a lower validation loss after which the training ends; 0 trains all epochs",
        **at_least(0),
    )  # fmt: skip
    clip_grad_norm: float = option(
        0.0,
        "largest L2 norm of the gradient of all weights, which is scaled down to it (Pascanu et al. 2013); 0 scales "
        "nothing",
        **at_least(0),
    )
    ema: float = option(
        0.0,
        "decay per step of an exponential moving average of the weights, which is measured and saved in their place "
        "(Polyak & Juditsky 1992); 0 keeps no average",
        expected="at least 0 and below 1",
        valid=lambda decay: 0 <= decay < 1,
    )
    architecture: str = option(
        "mlp",
        "`mlp`; `conv` for larger and colour images; or `resnet`, which is deeper and slower, and has latents of any "
        "--latent-shape",
        **one_of(*WIDTHS),
    )
    hidden_dim: int | None = unset_option(
        "width of the hidden layers (mlp) or channels of the coarsest map (conv, resnet)",
        otherwise="392 for mlp, 64 for conv and resnet", unset=0, **at_least(0),
    )  # fmt: skip
    hidden_layers: int | None = unset_option(
        "hidden layers of encoder and of decoder (mlp), of which 4 gain five nats on MNIST; or residual blocks per "
        "resolution (resnet)",
        otherwise="2 for mlp, 1 for resnet", unset=0, expected="from 0 to 100", valid=lambda n: 0 <= n <= 100,
    )  # fmt: skip
    latent_dim: int = option(LATENT_DIM, "dimensions of the latent space", **at_least(1))
    latent_shape: tuple[int, int, int] | None = unset_option(
        "channels, height and width of latents that are maps (resnet), such as 8,8,8, in place of --latent-dim; of "
        "images of 32×32, the height and width are 16,16, 8,8 or 4,4",
        otherwise="latents are vectors",
        unset="",
        expected="three numbers of 1 or more, such as 8,8,8",
        valid=lambda shape: len(shape) == 3 and min(shape) >= 1,
    )
    likelihood: str = option(
        "bernoulli",
        "distribution of the pixels given the latent: `bernoulli` of grey values as probabilities, "
        "`continuous-bernoulli` or `gaussian` as densities, or `logistic` for probabilities of 8-bit values (bits/dim)",
        **one_of(*get_args(Likelihood)),
    )
    scale: str = option(
        "model",
        "learned scale of a gaussian or logistic likelihood: `model`, one for all, or `pixel`, computed by the decoder "
        "for each pixel",
        **one_of(*get_args(Scale)),
    )
    validation: int | None = unset_option(
        "approximate number of training images held out, chosen by a hash of their content, and measured after each "
        "epoch; 0 trains on all",
        otherwise="one in twelve",
        unset=-1,
        **at_least(-1),
    )
    matmul_precision: str = option(
        "highest",
        "precision of float32 matrix products, as of torch: `medium` is faster on processors with bfloat16",
        **one_of("highest", "high", "medium"),
    )
    measure: str = option(
        "quick",
        "metrics at the end: `quick` takes a tenth of the training time, at least a second, and measures as many "
        "images as that allows; `full` measures all",
        **one_of("quick", "full"),
    )
    device: str = option("auto", "device to train on: `auto` (a GPU if there is one), cpu, cuda, cuda:1, mps")
    tensorboard: bool = option(False, "write TensorBoard logs beside the checkpoint")
    resume: bool = option(False, "continue the interrupted training that wrote to the same --out")
    seed: int = option(
        0, "seed of the initial weights, the order of the images and all noise", expected="from 0 to 2**63 - 1",
        valid=lambda n: 0 <= n < 2**63,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if "unset" in each.metadata and value in (None, each.metadata["unset"]):
                object.__setattr__(self, each.name, None)
            elif not each.metadata["valid"](value):
                raise ConfigError(f"{flag(each.name)} is {as_argument(value)}; it must be {each.metadata['expected']}.")
        check_network(self)
        check_training(self)

    @property
    def all_epochs(self) -> int:
        """Epochs of the whole model and of the encoder alone."""
        return self.epochs + self.encoder_epochs

    @property
    def augmentations(self) -> frozenset[str]:
        """The names in `augment`."""
        return frozenset(self.augment.split(",")) if self.augment else frozenset()

    @property
    def width(self) -> int:
        """`hidden_dim`, or the default of the architecture."""
        return self.hidden_dim or WIDTHS[self.architecture]

    @property
    def depth(self) -> int:
        """`hidden_layers`, or the default of the architecture."""
        return self.hidden_layers or DEPTHS[self.architecture]

    @property
    def fit(self) -> Fit:
        """How the pictures of the data set are resized; DEFAULT_FIT for arrays."""
        return FOLDER_FIT if self.dataset.startswith("folder:") else DEFAULT_FIT

    def with_network(self, network: VAEConfig, given: Collection[str]) -> FitConfig:
        """Return the options with those of `network`; raises ConfigError if one named in `given` differs.

        A hidden_dim or hidden_layers of None equals any.
        """
        ours = {name: getattr(self, name) for name in NETWORK}
        theirs = {name: getattr(network, name) for name in NETWORK} | {"latent_shape": network.latent_map}
        different = [name for name in NETWORK if name in given and ours[name] not in (None, theirs[name])]
        if different:
            has, asked = (
                ", ".join(f"{flag(name)} {as_argument(of[name]) or 'unset'}" for name in different)
                for of in (theirs, ours)
            )
            raise ConfigError(
                f"--init-from {self.init_from} has {has}; {asked} was given: leave it out, or start from another "
                "checkpoint."
            )
        return replace(self, **theirs)

    def validation_share(self, images: int) -> float:
        """Return the share of `images` training images to hold out; raises ConfigError if it is all of them."""
        if self.validation is None:
            return VALIDATION_SHARE
        if self.validation >= images:
            raise ConfigError(f"--validation is {self.validation}; it must be less than the {images} training images.")
        return self.validation / images

    @property
    def located(self) -> str:
        """`dataset` with an absolute path."""
        kind, colon, path = self.dataset.partition(":")
        return f"{kind}{colon}{Path(path).absolute()}" if colon else kind

    def to_metadata(self) -> dict[str, Any]:
        """Return the options as the checkpoint keeps them, as JSON, without those of the machine.

        An option that is None is written as its `unset`, so that checkpoints of all versions have the same values.
        """
        unset = {each.name: each.metadata.get("unset") for each in fields(self)}
        own = {
            OLD_NAMES.get(name, name): unset[name] if value is None else value
            for name, value in asdict(self).items()
            if name not in RUNTIME_ONLY_FIELDS
        }
        kind, colon, path = self.dataset.partition(":")
        own["dataset"] = f"{kind}{colon}{printable(Path(path).absolute().name)}" if colon else kind
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in own.items()
            if not isinstance(value, Path)
        }
