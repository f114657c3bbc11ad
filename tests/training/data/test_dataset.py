import gzip
import hashlib
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision.datasets import MNIST

from training.data.builtin import load_builtin
from training.data.dataset import DataError, to_pixels


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the standard library
        pass


def test_reads_both_sets(data_dir: Path, digits: dict[str, NDArray[np.uint8]]) -> None:
    for part, train in (("train", True), ("t10k", False)):
        dataset = load_builtin("mnist", data_dir, train=train)
        assert np.array_equal(dataset.images.squeeze(1).numpy(), digits[f"{part}-images-idx3-ubyte"])
        assert np.array_equal(dataset.labels.numpy(), digits[f"{part}-labels-idx1-ubyte"])
        assert dataset.image_shape == (1, 28, 28)


def test_describes_itself(data_dir: Path) -> None:
    printed = load_builtin("mnist", data_dir, train=True).describe()
    assert printed == "400 images of 1×28×28, pixels 0 to 255, read as 0 to 1"


def test_pixels_are_what_the_article_feeds(data_dir: Path) -> None:
    images = load_builtin("mnist", data_dir, train=False).images
    pixels = to_pixels(images)
    assert pixels.dtype.is_floating_point
    assert (pixels.min().item(), pixels.max().item()) == (0, 1)
    assert np.allclose(pixels.numpy() * 255, images.numpy())


def test_holds_out_the_last_images(data_dir: Path) -> None:
    whole = load_builtin("mnist", data_dir, train=True)
    kept, held_out = whole.hold_out(100)
    assert (len(kept), len(held_out)) == (300, 100)
    assert kept.images.equal(whole.images[:300])
    assert held_out.labels.equal(whole.labels[300:])
    assert [len(part) for part in whole.hold_out(0)] == [400, 0]


def test_downloads_missing_files(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    resources = []
    for file in (data_dir / "MNIST" / "raw").iterdir():
        content = gzip.compress(file.read_bytes())
        (served / f"{file.name}.gz").write_bytes(content)
        resources.append((f"{file.name}.gz", hashlib.md5(content).hexdigest()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_address[1]}/"])
        monkeypatch.setattr(MNIST, "resources", resources)
        dataset = load_builtin("mnist", tmp_path / "new", train=True)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert dataset.images.equal(load_builtin("mnist", data_dir, train=True).images)
    assert (tmp_path / "new" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").exists()
    printed = capsys.readouterr()
    assert "mnist is not in" in printed.err
    assert printed.out == ""  # that is for `evaluate --json`


def test_a_missing_data_set_without_a_network_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # the discard port: nobody listens
    with pytest.raises(DataError, match=r"could not be downloaded into .*Connect to the network.*--data-dir"):
        load_builtin("mnist", tmp_path, train=True)


def test_a_damaged_file_is_an_error(tmp_path: Path, data_dir: Path) -> None:
    raw = shutil.copytree(data_dir / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(DataError, match="is damaged: remove the folder"):
        load_builtin("mnist", tmp_path, train=True)
    images.write_bytes(b"")
    with pytest.raises(DataError, match="is damaged: remove the folder"):
        load_builtin("mnist", tmp_path, train=True)


def test_images_that_do_not_match_their_labels_are_an_error(tmp_path: Path, data_dir: Path) -> None:
    raw = shutil.copytree(data_dir / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    shutil.copy(raw / "t10k-labels-idx1-ubyte", raw / "train-labels-idx1-ubyte")
    with pytest.raises(DataError, match="do not match their labels"):
        load_builtin("mnist", tmp_path, train=True)
