"""The command `vae-train`: fit, evaluate, plot, export, convert, encode."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from training.config.command_line import add_options, from_options, replace_old_flags
from training.config.fit_config import FitConfig
from training.config.options import NETWORK, ConfigError
from vae.calibration import LEVEL
from vae.noise import SEED_LIMIT

if TYPE_CHECKING:
    from training.data.dataset import Dataset
    from vae import Checkpoint

OWN_PACKAGES = ("pictures", "training", "vae", "weights")
"""A module of these that is missing is an error of the program, not of the installation."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that prints errors without the usage of all flags."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vae-train`.

    Args:
        arguments: The command line without the name of the program; None takes it from sys.argv.

    Returns:
        The exit status: 0, 1 (failed), 2 (bad option) or 130 (interrupted).

    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["fit"]:
        arguments = replace_old_flags(arguments)
    try:
        options = _parse(arguments)
        if options.command == "fit" and options.print_config:
            return _print_config(options)
        return _run(options)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in OWN_PACKAGES:
            raise
        problem = f"vae-train {arguments[0]} needs {module}, which is not installed"
        print(f"{problem}: pip install 'vae-service[training]'.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt}" if interrupt.args else "\nInterrupted.", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="vae-train", description="Train a variational autoencoder; evaluate, plot, export and use it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    fit = commands.add_parser("fit", help="train and write a checkpoint")
    add_options(fit, arguments)
    evaluate = commands.add_parser("evaluate", help="measure a checkpoint on the test set and the training set")
    evaluate.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    evaluate.add_argument(
        "--importance-samples", type=_count, default=5000, metavar="N",
        help="samples per image of the importance-weighted bound, each of them decoded; 0 omits it "
        "(default: %(default)s)",
    )  # fmt: skip
    evaluate.add_argument(
        "--seed", type=_seed, default=0, help="seed of the posterior samples of each image (default: %(default)s)"
    )
    evaluate.add_argument("--device", default="auto", help="as for vae-train fit (default: %(default)s)")
    plot = commands.add_parser("plot", help="plot latents, reconstructions, samples and loss curves of a checkpoint")
    plot.add_argument("--out", type=Path, default=Path("out/plots"), help="folder to write to (default: %(default)s)")
    plot.add_argument("--seed", type=int, default=0, help="seed of the random samples (default: %(default)s)")
    for command in (evaluate, plot):
        command.add_argument("checkpoint", type=Path, help="a checkpoint of vae-train fit, or the article's .pt")
        command.add_argument("--dataset", help="as for vae-train fit (default: the data set of the checkpoint)")
        command.add_argument(
            "--data-dir", type=Path, default=Path("data"),
            help="folder of the data sets; missing ones are downloaded into it (default: %(default)s)",
        )  # fmt: skip
    export = commands.add_parser("export", help="write encoder and decoder to files that run without this project")
    export.add_argument("checkpoint", type=Path, help="a checkpoint of vae-train fit, or the article's .pt")
    export.add_argument("--format", choices=("onnx", "torch-export"), default="onnx", help="(default: %(default)s)")
    export.add_argument("--out", type=Path, default=Path("out"), help="folder to write to (default: %(default)s)")
    convert = commands.add_parser("convert", help="write the article's .pt, or an old checkpoint, as a new checkpoint")
    convert.add_argument("checkpoint", type=Path, help="the article's .pt, or a checkpoint of vae-train fit")
    convert.add_argument("out", type=Path, help="file to write, .safetensors; it may be the same")
    encode = commands.add_parser("encode", help="write latents and losses of any number of images to Parquet")
    encode.add_argument(
        "input", type=Path, metavar="INPUT",
        help="folder of pictures, .npy file, or .parquet file (or a folder of them) with a column of image bytes",
    )  # fmt: skip
    encode.add_argument(
        "--out", type=Path, required=True, metavar="PATH",
        help="folder to write part-*.parquet and errors-*.parquet to; an interrupted run continues",
    )  # fmt: skip
    encode.add_argument(
        "--checkpoint", type=Path, default=Path(str(files("weights"))) / "mnist.safetensors", metavar="PATH",
        help="a checkpoint of vae-train fit, or the article's .pt (default: the bundled one)",
    )  # fmt: skip
    encode.add_argument(
        "--batch-size", type=int, default=1000, metavar="N",
        help="images that are read and encoded at a time; fewer take less memory (default: %(default)s)",
    )  # fmt: skip
    encode.add_argument(
        "--draws", type=int, metavar="N",
        help="posterior samples per image for the column elbo; without it, there is no such column",
    )  # fmt: skip
    encode.add_argument(
        "--importance-samples", type=_count, default=0, metavar="N",
        help="samples per image for the column importance_weighted_bound, beside --draws, then 10 by default; 0 omits "
        "it (default: %(default)s)",
    )  # fmt: skip
    encode.add_argument(
        "--level", type=float, default=LEVEL, metavar="X",
        help="percentile, 0 to 1, above which the column anomalous is true; checkpoints with a calibration have these "
        "columns (default: %(default)s)",
    )  # fmt: skip
    encode.add_argument("--seed", type=int, default=0, help="seed of the samples (default: %(default)s)")
    encode.add_argument("--device", default="auto", help="as for vae-train fit (default: %(default)s)")
    encode.add_argument(
        "--ray", metavar="ADDRESS",
        help="encode on the Ray cluster at this address, or auto on one of its machines; without it, on this machine",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        if options.command == "fit":
            if options.config_file:
                _add_file(options)
            options.config = from_options(options)
        elif getattr(options, "dataset", None) is not None:
            FitConfig(dataset=options.dataset)
    except ConfigError as error:
        commands.choices[options.command].error(str(error))
    return options


def _add_file(options: argparse.Namespace) -> None:
    """Add to `options` those of the file that the command line does not give."""
    from training.config.file import read_config  # noqa: PLC0415 - PyYAML is part of the extra

    for name, value in read_config(options.config_file).items():
        if name not in options:
            setattr(options, name, value)


def _print_config(options: argparse.Namespace) -> int:
    from training.config.file import to_yaml  # noqa: PLC0415

    print(to_yaml(options.config), end="")
    return 0


def _run(options: argparse.Namespace) -> int:
    # torch, torchvision and plotly take seconds to import, so the options are checked first
    from training.data.dataset import DataError  # noqa: PLC0415
    from training.export import ExportError  # noqa: PLC0415
    from training.fitting.state import TrainingError  # noqa: PLC0415
    from vae import CheckpointError  # noqa: PLC0415

    try:
        COMMANDS[options.command](options)
    except (ConfigError, DataError, TrainingError, ExportError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        print(f"{error.filename or 'A file'} cannot be written or read: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


def _fit(options: argparse.Namespace) -> None:
    from training.fitting.fit import fit  # noqa: PLC0415

    fit(options.config, given=[name for name in NETWORK if name in options])


def _evaluate(options: argparse.Namespace) -> None:
    from training.fitting.distributed import resolve_device  # noqa: PLC0415
    from training.metrics.neighbours import NEIGHBOURS  # noqa: PLC0415
    from training.metrics.report import as_text  # noqa: PLC0415
    from training.metrics.summary import measure  # noqa: PLC0415
    from vae.noise import DRAWS  # noqa: PLC0415

    checkpoint, train, test = _load(options)
    model = checkpoint.model.to(resolve_device(options.device))
    samples, seed = options.importance_samples, options.seed
    metrics = measure(model, train, test, importance_samples=samples, seed=seed, progress=True)
    if options.json:
        about = {"checkpoint": checkpoint.name, "sha256": checkpoint.sha256, "dataset": test.name}
        settings = {"images": len(test), "draws": DRAWS, "seed": seed, "neighbours": NEIGHBOURS}
        print(json.dumps(about | settings | metrics))
    else:
        print(f"{checkpoint.name} on {test.name}")
        print(as_text(metrics, model.config.likelihood))


def _plot(options: argparse.Namespace) -> None:
    from training.plots.figures import draw_all  # noqa: PLC0415

    checkpoint, _, test = _load(options)
    for path in draw_all(checkpoint.model, test, options.checkpoint, options.out, options.seed):
        print(path)


def _export(options: argparse.Namespace) -> None:
    from training.export import BATCHES, TOLERANCE, export  # noqa: PLC0415
    from vae import load  # noqa: PLC0415

    for path in export(load(options.checkpoint), options.format, options.out):
        print(f"{path}: agrees with the checkpoint to {TOLERANCE:g} on batches of {', '.join(map(str, BATCHES))}.")


def _convert(options: argparse.Namespace) -> None:
    from training.convert import convert  # noqa: PLC0415

    convert(options.checkpoint, options.out)
    print(f"Wrote {options.out}; serve it with: vae-serve --checkpoint {shlex.quote(str(options.out))}")


def _encode(options: argparse.Namespace) -> None:
    from training.encode.command import encode  # noqa: PLC0415
    from vae import load  # noqa: PLC0415

    checkpoint = load(options.checkpoint)
    encode(
        checkpoint, options.input, options.out, options.batch_size, options.device, options.ray,
        draws=options.draws, samples=options.importance_samples, seed=options.seed, level=options.level,
    )  # fmt: skip


def _load(options: argparse.Namespace) -> tuple[Checkpoint, Dataset, Dataset]:
    from training.data.dataset import DataError  # noqa: PLC0415
    from training.data.load import load  # noqa: PLC0415
    from training.fitting.lineage import describe_data, find_dataset, find_doubts, is_called, training_images  # noqa: PLC0415
    from vae import load as load_checkpoint  # noqa: PLC0415

    checkpoint = load_checkpoint(options.checkpoint)
    shape, training = checkpoint.model.config.image_shape, checkpoint.training
    name = FitConfig(dataset=options.dataset or find_dataset(options.checkpoint, training)).dataset
    train, test = load(name, options.data_dir, shape[1] if shape[1] == shape[2] else None)
    expected, actual = ("×".join(map(str, each)) for each in (shape, test.image_shape))
    if expected != actual:
        raise DataError(
            f"{options.checkpoint} takes images of {expected}; those of {name} are {actual}: give another --dataset."
        )
    if is_called(name, training):
        for doubt in find_doubts(name, describe_data(train, 0), training):
            print(doubt, file=sys.stderr)
    return checkpoint, training_images(train, name, training), test


def _count(text: str) -> int:
    if text.isascii() and text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 0 or more, such as 5000.")


def _seed(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text) < SEED_LIMIT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 0 to 2**64 - 1, such as 0.")


COMMANDS = {
    "fit": _fit,
    "evaluate": _evaluate,
    "plot": _plot,
    "export": _export,
    "convert": _convert,
    "encode": _encode,
}


if __name__ == "__main__":
    sys.exit(main())
