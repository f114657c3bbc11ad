"""Every option of `vae-train fit`: one field each, with its default, its bounds and its help; and the named recipes."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from training.data.tree import FOLDER_FIT, printable
from vae.config import VAEConfig
from vae.metadata import DEFAULT_FIT, Fit

T = TypeVar("T")

RUNTIME_ONLY_FIELDS = ("device", "measure", "resume", "start_from", "tensorboard")
"""Options that do not tell how a model came to be."""
NETWORK = ("architecture", "hidden_dim", "hidden_layers", "latent_dim")
"""Options that describe the network."""
VALIDATION_SHARE = 1 / 12
"""Share of the training images that is held out by default, about: 5,000 of MNIST's."""
DATASETS = ("mnist", "fashion-mnist", "kmnist", "emnist", "cifar10")


class ConfigError(ValueError):
    """An option with a value that cannot be used; the message is a sentence that says how to mend it."""


def option(default: T, says: str, *, wanted: str = "", valid: Callable[[T], bool] = lambda _: True) -> T:
    """Declare a field: its default, its help, and (in words and as a predicate) the values that it takes."""
    chosen: T = field(default=default, metadata={"help": says, "wanted": wanted, "valid": valid})
    return chosen


def one_of(*names: str) -> dict[str, Any]:
    """The bounds of an option that is one of `names`."""
    return {"wanted": f"one of: {', '.join(names)}", "valid": lambda value: value in names}


@dataclass(frozen=True)
class FitConfig:
    """What `vae-train fit` does; the defaults are the recipe `default`. Raises ConfigError on a value out of bounds."""

    recipe: str = option(
        "default",
        "named set of defaults for all other options: `default`, or `article` for the article's own training",
    )
    dataset: str = option(
        "mnist",
        f"images to learn: {', '.join(DATASETS)}, folder:PATH of pictures, or npy:PATH of an array",
        wanted=f"one of: {', '.join(DATASETS)}, folder:PATH, npy:PATH",
        valid=lambda name: name in DATASETS or re.match("(folder|npy):.", name) is not None,
    )
    data_dir: Path = option(  # noqa: RUF009 - a Path is immutable
        Path("data"), "folder that holds the data sets, or that they are downloaded into"
    )
    image_size: int = option(
        0, "height and width to which a folder's pictures are scaled; 0 leaves them as they are, all of one size",
        wanted="0 or more", valid=lambda n: n >= 0,
    )  # fmt: skip
    out: Path = option(  # noqa: RUF009
        Path("out/mnist.safetensors"),
        "checkpoint to write, after every epoch; the latents of the test set are laid beside it",
        wanted="a file name that ends in .safetensors",
        valid=lambda path: path.suffix == ".safetensors" and not path.is_dir(),
    )
    start_from: str = option("", "checkpoint whose network and weights to start from; none starts from new ones")
    epochs: int = option(10, "passes over the training images", wanted="0 or more", valid=lambda n: n >= 0)
    encoder_epochs: int = option(
        0,
        "passes after those, in which the decoder rests and the encoder learns from images turned, moved and scaled a "
        "little: it is the encoder that knows unseen images least",
        wanted="0 or more",
        valid=lambda n: n >= 0,
    )
    batch_size: int = option(256, "images per step", wanted="1 or more", valid=lambda n: n >= 1)
    optimizer: str = option(
        "muon",
        "`muon` for the hidden layers' matrices and Adam for the rest; or `adam` alone: quicker epochs, more of them",
        **one_of("adam", "muon"),
    )
    learning_rate: float = option(
        5e-3,
        "the optimizer's learning rate after the warm-up",
        wanted="above 0",
        valid=lambda rate: 0 < rate < math.inf,
    )
    adam_learning_rate: float = option(
        0.0,
        "Adam's learning rate beside Muon; 0 takes --learning-rate for the biases and narrow layers of an mlp, and at "
        "most 0.003 for convolutions and where no matrix is wide enough for Muon",
        wanted="0 or more",
        valid=lambda rate: 0 <= rate < math.inf,
    )
    decay: str = option(
        "cosine",
        "what becomes of the learning rate after the warm-up: `cosine` lets it fall to 0, `constant` keeps it",
        **one_of("cosine", "constant"),
    )
    warmup_steps: int = option(
        50, "steps in which the learning rate rises from 0; at most half of the training's",
        wanted="0 or more", valid=lambda n: n >= 0,
    )  # fmt: skip
    output_bias: bool = option(True, "start the decoder's last bias at the logit of the mean training image")
    input_dropout: float = option(
        0.1,
        "share of the pixels that are hidden from the encoder at each step; the target stays whole",
        wanted="at least 0 and below 1",
        valid=lambda share: 0 <= share < 1,
    )
    beta: float = option(
        1.0,
        "weight of the KL divergence in the loss (Higgins et al. 2017); 1 minimises −ELBO",
        wanted="0 or more",
        valid=lambda beta: 0 <= beta < math.inf,
    )
    architecture: str = option("mlp", "`mlp`, or `conv` for larger and colour images", **one_of("mlp", "conv"))
    hidden_dim: int = option(
        0, "width of the hidden layers (mlp) or channels of the coarsest map (conv); 0 takes 392 or 64",
        wanted="0 or more", valid=lambda n: n >= 0,
    )  # fmt: skip
    hidden_layers: int = option(
        2, "hidden layers on either side of an mlp: 4 gain five nats on MNIST",
        wanted="from 1 to 100", valid=lambda n: 1 <= n <= 100,
    )  # fmt: skip
    latent_dim: int = option(3, "dimensions of the latent space", wanted="1 or more", valid=lambda n: n >= 1)
    validation: int = option(
        -1,
        "about how many training images are held out, chosen by a hash of their content, to be measured after each "
        "epoch; 0 trains on all, -1 holds out one in twelve, the same ones however many are added",
        wanted="-1 or more",
        valid=lambda n: n >= -1,
    )
    matmul_precision: str = option(
        "highest",
        "torch's float32 matrix products while training: `medium` is faster where the processor has bfloat16",
        **one_of("highest", "high", "medium"),
    )
    measure: str = option(
        "quick",
        "figures at the end: `quick` takes a tenth of the training's time, a second at least, and measures as many "
        "images as that allows; `full` takes what it takes",
        **one_of("quick", "full"),
    )
    device: str = option("auto", "where to train: `auto` takes a GPU where there is one; or cpu, cuda, cuda:1, mps")
    tensorboard: bool = option(False, "write TensorBoard logs beside the checkpoint")
    resume: bool = option(False, "go on with the training that was cut while it wrote the same --out")
    seed: int = option(
        0, "of the initial weights, the order of the images and all noise", wanted="from 0 to 2**63 - 1",
        valid=lambda n: 0 <= n < 2**63,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not each.metadata["valid"](value):
                raise ConfigError(f"{flag(each.name)} is {value}; it must be {each.metadata['wanted']}.")
        if self.architecture != "mlp" and self.hidden_layers != 2:
            raise ConfigError(f"--hidden-layers is for --architecture mlp; {self.architecture} has none of its own.")
        if self.all_epochs == 0:
            raise ConfigError("--epochs and --encoder-epochs are both 0; one of them must be more.")

    @property
    def all_epochs(self) -> int:
        """Passes of either kind."""
        return self.epochs + self.encoder_epochs

    @property
    def width(self) -> int:
        """`hidden_dim`, or the architecture's own."""
        return self.hidden_dim or {"mlp": 392, "conv": 64}[self.architecture]

    @property
    def fit(self) -> Fit:
        """How the pictures of the data set were prepared; DEFAULT_FIT where it has arrays."""
        return FOLDER_FIT if self.dataset.startswith("folder:") else DEFAULT_FIT

    def with_network(self, network: VAEConfig, given: Collection[str]) -> FitConfig:
        """The same options with those of `network`; raises ConfigError where one that is named in `given` differs.

        A hidden_dim of 0 differs from none.
        """
        ours = {name: getattr(self, name) for name in NETWORK}
        theirs = {name: getattr(network, name) for name in NETWORK}
        different = [name for name in NETWORK if name in given and ours[name] not in (0, theirs[name])]
        if different:
            has, asked = (", ".join(f"{flag(name)} {of[name]}" for name in different) for of in (theirs, ours))
            raise ConfigError(
                f"--start-from {self.start_from} has {has}; {asked} is asked for: leave it out, or start from another "
                "checkpoint."
            )
        return replace(self, **theirs)

    def validation_share(self, images: int) -> float:
        """About which share of the training set's `images` is held out; raises ConfigError where it is all of them."""
        if self.validation >= images:
            raise ConfigError(f"--validation is {self.validation}; it must be less than the {images} training images.")
        return VALIDATION_SHARE if self.validation == -1 else self.validation / images

    @property
    def located(self) -> str:
        """`dataset`, found from any working directory."""
        kind, colon, path = self.dataset.partition(":")
        return f"{kind}{colon}{Path(path).absolute()}" if colon else kind

    def to_metadata(self) -> dict[str, Any]:
        """What the checkpoint says of its training, as JSON: all but what is the machine's business."""
        own = {name: value for name, value in asdict(self).items() if name not in RUNTIME_ONLY_FIELDS}
        kind, colon, path = self.dataset.partition(":")
        own["dataset"] = f"{kind}{colon}{printable(Path(path).absolute().name)}" if colon else kind
        return {name: value for name, value in own.items() if not isinstance(value, Path)}


RECIPES = {
    "default": FitConfig(),
    "article": FitConfig(
        recipe="article",
        batch_size=128,
        optimizer="adam",
        learning_rate=1e-3,
        decay="constant",
        warmup_steps=0,
        output_bias=False,
        input_dropout=0.0,
        validation=0,
    ),
}


def flag(name: str) -> str:
    """The flag of the field `name`: `batch_size` → `--batch-size`."""
    return "--" + name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Give `parser` a flag for each field of FitConfig; its help tells the default of the recipe named in `arguments`.

    Parsed options hold those alone that were given.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default="default", nargs="?")
    recipe = first.parse_known_args(arguments)[0].recipe
    if recipe not in RECIPES:
        parser.error(f"--recipe is {recipe}; it must be one of: {', '.join(RECIPES)}.")
    for each in fields(FitConfig):
        kind, default = type(each.default), getattr(RECIPES[recipe], each.name)
        about: dict[str, Any] = {"default": argparse.SUPPRESS, "help": f"{each.metadata['help']} (default: {default})"}
        if kind is bool:
            parser.add_argument(flag(each.name), action=argparse.BooleanOptionalAction, **about)
        else:
            convert = _CONVERTERS.get(kind, kind)
            parser.add_argument(flag(each.name), type=convert, metavar=_METAVARS.get(kind, "NAME"), **about)


def from_options(options: argparse.Namespace) -> FitConfig:
    """The recipe's configuration with the parsed flags; raises ConfigError where one is out of bounds."""
    given = {each.name: getattr(options, each.name) for each in fields(FitConfig) if each.name in options}
    return replace(RECIPES[given.get("recipe", "default")], **given)


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


_CONVERTERS: dict[type, Callable[[str], Any]] = {int: _whole_number, float: _number}
_METAVARS = {int: "N", float: "X", type(Path()): "PATH"}
