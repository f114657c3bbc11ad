from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from service.inference.checkpoints import read_checkpoint
from service.inference.onnx_graph import translate
from service.settings import BUNDLED
from tests.service.processes.preloaded import FILE


@pytest.fixture(scope="session", autouse=True)
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The model for `preloaded.PROGRAM`."""
    model, info = read_checkpoint(BUNDLED)
    file = tmp_path_factory.mktemp("preloaded") / "model.pickle"
    file.write_bytes(pickle.dumps((info, translate(model))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FILE, str(file))
        yield
