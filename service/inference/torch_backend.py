"""The torch backend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from service.errors import Unavailable
from service.inference.backend import Arrays, ByteArray, FloatArray
from service.inference.compute_memory import ComputeMemory
from service.malloc import tune_malloc
from vae.diffusion.model import DiffusionModel
from vae.model import VAE

logger = logging.getLogger("vae-service")

Model = VAE | DiffusionModel
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

ROW_MULTIPLES = (4, 12)
"""Rows, to a multiple of which batches may be padded. BLAS computes the last rows of a matrix with other kernels than
the rest, and their last bits differ: multiples of 4 avoid that with the kernels for AMD's Zen 5, those of 12 with the
ones for Intel's AVX2."""
COMPARED_ROWS = 64
"""Rows of the largest batch that is compared, so that the start does not take long."""


def _retry_in_tiles(
    compute: Callable[Concatenate[TorchBackend, Parameters], Result],
) -> Callable[Concatenate[TorchBackend, Parameters], Result]:
    """Where the device has not enough memory for a pass of a model of diffusers, compute it again in smaller tiles.

    Raises Unavailable where that fails too: other processes may use the device.
    """

    def retry(backend: TorchBackend, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return compute(backend, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            if not isinstance(backend.model, DiffusionModel):
                raise
            logger.warning("The device's memory did not suffice: %s", error)
        torch.cuda.empty_cache()  # here, as the exception's traceback held the tensors of the pass
        tiling = backend.model.tiling
        backend.model.tiling = tiling.smaller()
        try:
            return compute(backend, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise Unavailable("The device's memory is in use; try again in a moment.", "memory") from None
        finally:
            backend.model.tiling = tiling

    return retry


class TorchBackend:
    """A model on any device.

    With CUDA each thread has its own stream and copies through pinned memory, so that one batch is computed while
    another is copied.
    """

    def __init__(self, model: Model, device: torch.device | str = "cpu", memory: ComputeMemory | None = None) -> None:
        """Take `model`, which is on `device` already; its weights are laid out anew. `memory`: as Backend."""
        self.config = model.config
        self.model = model
        self._device = torch.device(device)
        self._threads = torch.get_num_threads()
        self._cuda = self._device.type == "cuda"
        self.memory = memory
        self.max_concurrent_batches = 2 if self._cuda and memory is None else 1
        lay_out(model)
        if memory and isinstance(model, DiffusionModel):
            model.tiling = memory.tiling
            model.between_tiles = memory.between_tiles
            model.network.decoder.register_forward_pre_hook(lambda *_: memory.before_piece())
        if self._cuda:
            torch.cuda.synchronize(self._device)  # the threads' streams do not wait for the weights

    def find_row_multiple(self, limit: int) -> int:
        """As Backend, but measured, since BLAS's kernels depend on the processor, the threads and the layers.

        1 where no size helps, as with some layers of few outputs: the last bits then depend on the batch.
        """
        random = np.random.default_rng(0)
        for multiple in (*(each for each in ROW_MULTIPLES if each < limit), limit):
            most = -(-min(limit, COMPARED_ROWS) // multiple) * multiple
            images = random.random((most + 1, *self.config.image_shape), np.float32)
            z = random.standard_normal((most + 1, *self.config.latent_shape), np.float32)
            if self._rows_are_independent(images, z, range(multiple, most + 1, multiple)):
                return multiple
        return 1

    def _rows_are_independent(self, images: FloatArray, z: FloatArray, sizes: Sequence[int]) -> bool:
        """Are a row's results the same in batches of these `sizes`, the largest last, and one place further up?"""

        def compute(rows: slice) -> Arrays:
            return *self.encode(images[rows]), *self.reconstruct(z[rows], images[rows])

        whole = compute(slice(sizes[-1]))
        return all(
            np.array_equal(part[: sizes[-1] - 1], expected[1 : size + 1])
            for size in sizes
            for part, expected in zip(compute(slice(1, size + 1)), whole, strict=True)
        )

    @_retry_in_tiles
    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Backend."""
        with torch.inference_mode():
            mean, log_variance = self._arrays(*self.model.encode(self._tensor(images)))
            return mean, log_variance

    @_retry_in_tiles
    def decode(self, z: FloatArray) -> FloatArray:
        """As Backend."""
        with torch.inference_mode():
            images: FloatArray
            (images,) = self._arrays(self.model.to_image_(self.model.decode(self._tensor(z))))
            return images

    @_retry_in_tiles
    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Backend."""
        with torch.inference_mode():
            decoded = self.model.decode(self._tensor(z))
            loss = self.model.reconstruction_loss(decoded, self._tensor(images))
            image, loss_array = self._arrays(self.model.to_image_(decoded), loss)
            return image, loss_array

    @_retry_in_tiles
    def pixel_losses(self, z: FloatArray, images: FloatArray) -> FloatArray:
        """As Backend."""
        with torch.inference_mode():
            losses: FloatArray
            (losses,) = self._arrays(self.model.pixel_losses(self.model.decode(self._tensor(z)), self._tensor(images)))
            return losses

    @_retry_in_tiles
    def decode_raw(self, z: FloatArray, dtype: str) -> tuple[ByteArray, FloatArray]:
        """As Backend."""
        with torch.inference_mode():
            images = self.model.decode_raw(self._tensor(z))
            wanted: torch.dtype = getattr(torch, dtype)
            values = images.to(wanted, memory_format=torch.contiguous_format).flatten(1).view(torch.uint8)
            raw, sums = self._arrays(values, images.sum(tuple(range(1, images.ndim))))
            return raw, sums

    def decode_pieces(self, z: FloatArray, take: Callable[[FloatArray], None]) -> None:
        """As VideoBackend."""

        def take_tensor(frames: Tensor) -> None:
            take(*self._arrays(self.model.to_image_(frames)))

        with torch.inference_mode():
            cast("DiffusionModel", self.model).decode_pieces(self._tensor(z), take_tensor)

    def begin_thread(self) -> None:
        """As Backend. In a thread that torch did not create, BLAS uses all cores unless the number is set there."""
        torch.set_num_threads(self._threads)
        tune_malloc()
        if self._cuda:
            torch.cuda.set_stream(torch.cuda.Stream(self._device))

    def _tensor(self, array: FloatArray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._cuda else tensor.to(self._device)

    def _arrays(self, *tensors: Tensor) -> list[Any]:
        """To be called in inference mode, outside of which it takes ten times as long."""
        copies = [tensor.to("cpu", non_blocking=self._cuda) for tensor in tensors]  # non-blocking: to pinned memory
        if self._cuda:
            torch.cuda.current_stream(self._device).synchronize()
        return [copy.numpy() for copy in copies]


def lay_out(model: nn.Module) -> None:
    """Store the matrices of `model` as (inputs, outputs) in memory; their shape stays (outputs, inputs).

    BLAS then computes batches of any size, from a few rows upwards, with the same kernels, and small ones faster.
    Convolutions get their channels last in memory, and so do their outputs: a tenth to a quarter less time.
    """
    for module in model.modules():  # the second time nothing is copied
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
