"""The options of `vae-train fit`, with their defaults, bounds and help, and the presets."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import prod
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from training.data.tree import FOLDER_FIT, printable
from vae.config import LOG_SCALE_BOUNDS, Likelihood, Scale, VAEConfig
from vae.metadata import DEFAULT_FIT, Fit

T = TypeVar("T")

RUNTIME_ONLY_FIELDS = ("device", "measure", "out", "resume", "init_from", "tensorboard")
"""Options that do not affect the model; checkpoints do not keep them."""
OLD_NAMES = {"preset": "recipe", "lr_schedule": "decay", "init_from": "start_from", "init_output_bias": "output_bias"}
"""Options → their names in checkpoints and, deprecated, on the command line."""
NETWORK = ("architecture", "hidden_dim", "hidden_layers", "latent_dim", "latent_shape", "likelihood", "scale")
"""Options that determine the network."""
VALIDATION_SHARE = 1 / 12
"""Default share of the training images held out for validation: about 5,000 of MNIST."""
LATENT_DIM = 3
"""Default dimensions of the latent space, those of the article."""
WIDTHS = {"mlp": 392, "conv": 64, "resnet": 64}
"""Default `hidden_dim` of each architecture."""
DEPTHS = {"mlp": 2, "conv": 2, "resnet": 1}
"""Default `hidden_layers`, which a conv ignores."""
DATASETS = ("mnist", "fashion-mnist", "kmnist", "emnist", "cifar10")
GROUPS = {
    "general": ("preset", "seed", "device", "matmul_precision"),
    "data": ("dataset", "data_dir", "image_size", "validation"),
    "network": (*NETWORK, "init_from", "init_output_bias"),
    "objective": ("beta", "free_bits", "kl_warmup_epochs", "posterior_samples", "importance_samples"),
    "training": ("epochs", "encoder_epochs", "batch_size", "input_dropout", "augment", "precision"),
    "selection": ("ema", "keep", "patience"),
    "optimizer": ("optimizer", "learning_rate", "adam_learning_rate", "lr_schedule", "warmup_steps", "clip_grad_norm"),
    "output": ("out", "resume", "measure", "tensorboard"),
}
"""Headings of --help → options."""
AUGMENTATIONS = ("flip", "crop")


class ConfigError(ValueError):
    """The value of an option cannot be used; the message says how to correct it."""


def option(default: T, says: str, *, expected: str = "", valid: Callable[[T], bool] = lambda _: True) -> T:
    """Declare a field with its default, its help, and the values that it takes, in words and as a predicate."""
    chosen: T = field(default=default, metadata={"help": says, "expected": expected, "valid": valid})
    return chosen


def unset_option(
    says: str, *, otherwise: str, unset: object, expected: str = "", valid: Callable[[Any], bool] = lambda _: True
) -> T | None:
    """Declare a field whose default None has the effect that `otherwise` describes.

    On the command line and in checkpoints the value `unset` means None.
    """
    about = {"help": says, "otherwise": otherwise, "unset": unset, "expected": expected, "valid": valid}
    chosen: T | None = field(default=None, metadata=about)
    return chosen


def one_of(*names: str) -> dict[str, Any]:
    """Return the bounds of an option that is one of `names`."""
    return {"expected": f"one of: {', '.join(names)}", "valid": lambda value: value in names}


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
        otherwise="not resized; all must have one size", unset=0, expected="0 or more", valid=lambda n: n >= 0,
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
    epochs: int = option(10, "passes over the training images", expected="0 or more", valid=lambda n: n >= 0)
    encoder_epochs: int = option(
        0,
        "further passes that train the encoder alone, on randomly rotated, shifted and scaled images, to reduce the "
        "amortisation gap",
        expected="0 or more",
        valid=lambda n: n >= 0,
    )
    batch_size: int = option(256, "images per step", expected="1 or more", valid=lambda n: n >= 1)
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
        expected="0 or more",
        valid=lambda rate: 0 <= rate < math.inf,
    )
    lr_schedule: str = option(
        "cosine",
        "learning rate after the warm-up: `cosine` lowers it to 0, `constant` keeps it",
        **one_of("cosine", "constant"),
    )
    warmup_steps: int = option(
        50, "steps in which the learning rate rises from 0; at most half of all steps",
        expected="0 or more", valid=lambda n: n >= 0,
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
        expected="0 or more",
        valid=lambda beta: 0 <= beta < math.inf,
    )
    free_bits: float = option(
        0.0,
        "nats of KL divergence that each latent dimension has for free, on average over a batch (Kingma et al. 2016); "
        "0 minimises all of it",
        expected="0 or more",
        valid=lambda nats: 0 <= nats < math.inf,
    )
    kl_warmup_epochs: int = option(
        0,
        "epochs in which the weight of the KL divergence rises linearly to --beta (Bowman et al. 2016, Sønderby et al. "
        "2016)",
        expected="0 or more",
        valid=lambda n: n >= 0,
    )
    posterior_samples: int = option(
        1,
        "posterior samples per image that the reconstruction loss is averaged over (Kingma & Welling 2014): more of "
        "them make its gradient less noisy and take longer",
        expected="1 or more",
        valid=lambda n: n >= 1,
    )
    importance_samples: int = option(
        1,
        "posterior samples per image of the importance-weighted bound that is maximised (Burda et al. 2016); with 1, "
        "that is the ELBO",
        expected="1 or more",
        valid=lambda n: n >= 1,
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
        expected="0 or more", valid=lambda n: n >= 0,
    )  # fmt: skip
    clip_grad_norm: float = option(
        0.0,
        "largest L2 norm of the gradient of all weights, which is scaled down to it (Pascanu et al. 2013); 0 scales "
        "nothing",
        expected="0 or more",
        valid=lambda norm: 0 <= norm < math.inf,
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
        otherwise="392 for mlp, 64 for conv and resnet", unset=0, expected="0 or more", valid=lambda n: n >= 0,
    )  # fmt: skip
    hidden_layers: int | None = unset_option(
        "hidden layers of encoder and of decoder (mlp), of which 4 gain five nats on MNIST; or residual blocks per "
        "resolution (resnet)",
        otherwise="2 for mlp, 1 for resnet", unset=0, expected="from 0 to 100", valid=lambda n: 0 <= n <= 100,
    )  # fmt: skip
    latent_dim: int = option(LATENT_DIM, "dimensions of the latent space", expected="1 or more", valid=lambda n: n >= 1)
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
        expected="-1 or more",
        valid=lambda n: n >= -1,
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
        self._check_network()
        self._check_training()

    def _check_network(self) -> None:
        if self.architecture == "conv" and self.hidden_layers not in (None, DEPTHS["conv"]):
            raise ConfigError("--hidden-layers is for --architecture mlp and resnet; conv does not use it.")
        if self.latent_shape and self.architecture != "resnet":
            raise ConfigError(
                f"--latent-shape is for --architecture resnet; the latents of {self.architecture} are vectors: give "
                "--latent-dim."
            )
        if self.latent_shape and self.latent_dim not in (LATENT_DIM, prod(self.latent_shape)):
            raise ConfigError("--latent-dim and --latent-shape exclude each other: give one of them.")
        if self.scale == "pixel" and self.likelihood not in LOG_SCALE_BOUNDS:
            raise ConfigError(
                f"--scale pixel is for --likelihood {' and '.join(LOG_SCALE_BOUNDS)}; {self.likelihood} has no scale."
            )

    def _check_training(self) -> None:
        if self.all_epochs == 0:
            raise ConfigError("--epochs and --encoder-epochs are both 0; one of them must be more.")
        if self.kl_warmup_epochs > self.epochs:
            raise ConfigError(
                f"--kl-warmup-epochs is {self.kl_warmup_epochs}; it must be at most the {self.epochs} of --epochs."
            )
        if self.patience and self.encoder_epochs:
            raise ConfigError(
                "--patience ends a training of the whole model: leave out --encoder-epochs, and train the encoder "
                "alone afterwards, with --init-from."
            )
        of_the_elbo = {"beta": 1, "free_bits": 0, "kl_warmup_epochs": 0, "posterior_samples": 1}
        changed = [flag(name) for name, plain in of_the_elbo.items() if getattr(self, name) != plain]
        if self.importance_samples > 1 and changed:
            raise ConfigError(
                f"--importance-samples above 1 has neither a KL divergence nor an average over samples that "
                f"{' and '.join(changed)} could change: leave out either."
            )

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


PRESETS = {
    "default": FitConfig(),
    "article": FitConfig(
        preset="article",
        batch_size=128,
        optimizer="adam",
        learning_rate=1e-3,
        lr_schedule="constant",
        warmup_steps=0,
        init_output_bias=False,
        input_dropout=0.0,
        validation=0,
    ),
    "small-colour": FitConfig(
        preset="small-colour",
        dataset="cifar10",
        out=Path("out/cifar10.safetensors"),
        architecture="conv",
        latent_dim=128,
        likelihood="logistic",
        scale="pixel",
        augment="flip",
        epochs=30,
    ),
    "large": FitConfig(
        preset="large",
        image_size=128,
        architecture="conv",
        latent_dim=256,
        likelihood="logistic",
        scale="pixel",
        augment="flip",
        batch_size=64,
        epochs=30,
    ),
    "anomaly": FitConfig(
        preset="anomaly",
        architecture="conv",
        latent_dim=32,
        input_dropout=0.0,
        epochs=30,
    ),
}
"""Names of `--preset` → their options; `dataclasses.replace` changes some of them."""


def as_argument(value: Any) -> str:
    """Return the value of an option as the command line takes it: (8, 4, 4) → `8,4,4`."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def flag(name: str) -> str:
    """Return the flag of the field `name`: `batch_size` → `--batch-size`."""
    return "--" + name.replace("_", "-")


def replace_old_flags(arguments: Sequence[str]) -> list[str]:
    """Replace the deprecated names of options, with a warning on stderr."""
    renamed = {flag(old): flag(new) for new, old in OLD_NAMES.items()} | {"--no-output-bias": "--no-init-output-bias"}
    replaced = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in renamed:
            print(f"{name} is now called {renamed[name]}; the next version will not know it.", file=sys.stderr)
        replaced.append(renamed.get(name, name) + equals + value)
    return replaced


def add_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add a flag for each field of FitConfig to `parser`; help shows the defaults of the preset in `arguments`.

    Parsed options contain only those that were given.

    Built on argparse: pydantic-settings has no headings for flags without a dot and shows None as a default,
    jsonargparse has neither dashes within flags nor --no-… forms.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default", nargs="?")
    preset = first.parse_known_args(arguments)[0].preset
    if preset not in PRESETS:
        parser.error(f"--preset is {preset}; it must be one of: {', '.join(PRESETS)}.")
    kinds = get_type_hints(FitConfig)
    metadata = {each.name: each.metadata for each in fields(FitConfig)}
    for heading, names in GROUPS.items():
        group = parser.add_argument_group(heading)
        if heading == "general":
            group.add_argument(
                "--config", type=Path, metavar="PATH", dest="config_file",
                help="YAML file with values of options, `epochs: 20`; the command line overrides them",
            )  # fmt: skip
            group.add_argument("--print-config", action="store_true", help="print all options as such a file, and exit")
        for name in names:
            kind, default = kinds[name], getattr(PRESETS[preset], name)
            kind = next(iter(get_args(kind)), kind)  # `int | None` → int
            shown = metadata[name]["otherwise"] if default is None else default
            told = f"{metadata[name]['help']} (default: {shown})"
            about: dict[str, Any] = {"default": argparse.SUPPRESS, "help": told}
            if kind is bool:
                group.add_argument(flag(name), action=argparse.BooleanOptionalAction, **about)
            else:
                convert = _CONVERTERS.get(kind, kind)
                group.add_argument(flag(name), type=convert, metavar=_METAVARS.get(kind, "NAME"), **about)


def from_options(options: argparse.Namespace) -> FitConfig:
    """Return the preset with the parsed options applied; raises ConfigError if one is invalid."""
    given = {each.name: getattr(options, each.name) for each in fields(FitConfig) if each.name in options}
    return replace(PRESETS[given.get("preset", "default")], **given)


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, such as 10.") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 0.001.") from None


def _shape(text: str) -> tuple[int, ...] | None:
    sizes = text.split(",")
    if text and (len(sizes) != 3 or not all(size.isascii() and size.isdecimal() for size in sizes)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape C,h,w, such as 8,8,8.")
    return tuple(map(int, sizes)) if text else None


_CONVERTERS: dict[Any, Callable[[str], Any]] = {int: _whole_number, float: _number, tuple[int, int, int]: _shape}
_METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH", tuple[int, int, int]: "C,h,w"}
