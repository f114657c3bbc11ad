"""What is computed whole, in tiles, or not at all."""

from pathlib import Path

import pytest
import torch

from service.errors import TooLarge
from service.inference import torch_memory
from service.inference.compute_memory import ComputeMemory, PeakMemory, TooLittleMemory, free_memory
from service.inference.torch_backend import lay_out
from service.inference.torch_memory import measure_memory, peak_memory
from service.malloc import KEEP_FREE
from tests.vae.diffusion.networks import create_network
from vae.diffusion.model import DiffusionModel
from vae.metadata import CheckpointError

pytestmark = pytest.mark.slow

MB = 10**6
ENCODE, DECODE = PeakMemory(10 * MB, 1000), PeakMemory(20 * MB, 2000)
CPU = torch.device("cpu")


def plan(setting: int | None, free: float = 16e9) -> ComputeMemory:
    return ComputeMemory.plan(ENCODE, DECODE, 8, setting=setting, free=free, batches=True)


def test_fit_is_linear() -> None:
    peak = PeakMemory.fit((100, 1200.0), (400, 1800.0), 1.0)
    assert (peak.fixed, peak.per_pixel) == (1000, 2)
    assert peak.pixels(peak.size(12345)) == 12345
    assert PeakMemory.fit((100, 500.0), (400, 300.0), 1.0) == PeakMemory(0, 1)  # as noise has it


def test_what_fits_is_whole_and_the_rest_in_tiles() -> None:
    memory = plan(220 * MB)
    assert memory.tiles((3, 312, 320)) == 1  # 100,000 pixels
    assert memory.tiles((3, 320, 320)) == 4
    assert memory.tiling.side == 312
    assert memory.estimate(memory.decode, (3, 312, 312)) == 20 * MB + 2000 * 312**2


def test_without_a_setting_the_free_memory_matters_only_where_it_is_small() -> None:
    assert plan(None).tiles((3, 1024, 1024)) == plan(None, 1e12).tiles((3, 1024, 1024)) == 1
    assert plan(None, 1e12).tiles((3, 1024, 1032)) == 2
    assert plan(None, 440 * MB).tiling == plan(220 * MB).tiling
    assert plan(10**12).tiles((3, 4096, 4096)) == 1


def test_what_does_not_fit_in_tiles_is_refused_with_the_numbers() -> None:
    memory = plan(220 * MB)
    memory.check((3, 600, 600))
    with pytest.raises(TooLarge) as caught:
        memory.check((3, 2400, 2400))
    assert "2400×2400 pixels takes about 4" in caught.value.detail
    assert "tiles; 220 MB are allowed" in caught.value.detail


def test_too_little_for_any_tile() -> None:
    with pytest.raises(TooLittleMemory, match="256×256 pixels takes 151 MB to compute; 100 MB are allowed"):
        plan(100 * MB)


def test_batches_have_the_pixels_of_a_tile() -> None:
    memory = plan(None)
    assert [memory.rows((3, side, side)) for side in (1024, 512, 256)] == [1, 4, 16]
    memory.batches = False
    assert memory.rows((3, 256, 256)) == 1


def model_of(kind: str) -> DiffusionModel:
    model = DiffusionModel(create_network(kind)).eval()
    lay_out(model)
    return model


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "AutoencoderKLWan"])
def test_memory_is_measured(kind: str) -> None:
    memory = measure_memory(model_of(kind), CPU, None, 1)
    assert memory.decode.fixed > KEEP_FREE / 2
    assert 24 <= memory.encode.per_pixel < 10_000
    assert 24 <= memory.decode.per_pixel < 10_000
    assert memory.tiles((3, 512, 512)) == 1


def test_estimate_is_near_what_is_used() -> None:
    """The peak of a small network varies by a third from process to process."""
    model = DiffusionModel(
        create_network("AutoencoderKL", block_out_channels=(64, 64), mid_block_add_attention=False)
    ).eval()
    lay_out(model)
    memory = measure_memory(model, CPU, None, 1)
    z = torch.randn(1, 4, 128, 128)
    with torch.inference_mode():
        model.decode_raw(z)
        used = peak_memory(model, CPU, lambda: model.decode_raw(z)) + KEEP_FREE
    assert memory.estimate(memory.decode, (3, 256, 256)) == pytest.approx(used, rel=0.4)


def test_where_memory_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_memory, "CLEAR_REFS", Path("/nowhere/clear_refs"))
    memory = measure_memory(model_of("AutoencoderKL"), CPU, None, 1)
    assert memory.decode.per_pixel == pytest.approx(4 * 16 * 4, rel=0.01)  # four maps of 16 channels


def test_the_setting_is_too_small_for_the_model() -> None:
    with pytest.raises(CheckpointError, match=r"256×256 pixels takes \d+ MB .* Raise VAE_COMPUTE_MEMORY"):
        measure_memory(model_of("AutoencoderKL"), CPU, MB, 1)


def test_free_memory() -> None:
    assert 2**26 < free_memory() < 2**45
