"""The features of bilateral kernels as a torch operator.

Not by torch's own element-wise operators: their threads spin on for milliseconds, in which the lattice's build has no
core to itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from densecrf._ops import array_of, native_ops, operator, thread_count


@operator("image_features")
def image_features(image: Tensor, sigma: Tensor, channel_sigma: Tensor, shape: list[int]) -> Tensor:
    """Features ``[B, n, d]`` of images ``[B, C, n]``: positions over sigma, last axis first, channels over theirs."""
    unused = [1] * (3 - len(shape))
    sigmas = [*reversed(sigma.tolist()), *map(float, unused)]
    make = native_ops(image).make_features
    made = [
        make(([*unused, *shape], len(shape), sigmas, pixels, channel_sigma.tolist()), thread_count())
        for pixels in np.ascontiguousarray(image.detach().transpose(1, 2).numpy())  # often they lie so already
    ]
    return torch.from_numpy(made[0][None] if len(made) == 1 else np.stack(made))


@image_features.register_fake
def _(image: Tensor, sigma: Tensor, channel_sigma: Tensor, shape: list[int]) -> Tensor:
    return image.new_empty((image.shape[0], image.shape[2], len(shape) + image.shape[1]))


@operator("image_features_grad")
def image_features_grad(
    grad: Tensor, features: Tensor, sigma: Tensor, channel_sigma: Tensor, wants_image: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the image (empty where not wanted) and of both kinds of bandwidths."""
    axes, back = sigma.shape[0], array_of(grad)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes in may be infinite (loss scaling)
        found = array_of(features)
        sums = [(back[..., k] * found[..., k]).sum(dtype=np.float64) for k in range(found.shape[2])]
        if wants_image:
            image = np.ascontiguousarray((back[:, :, axes:] / array_of(channel_sigma)).transpose(0, 2, 1))
    return (
        torch.from_numpy(image) if wants_image else features.new_empty(0),
        torch.tensor(sums[:axes][::-1], dtype=sigma.dtype) / -sigma,
        torch.tensor(sums[axes:], dtype=sigma.dtype) / -channel_sigma,
    )


@image_features_grad.register_fake
def _(
    grad: Tensor, features: Tensor, sigma: Tensor, channel_sigma: Tensor, wants_image: bool
) -> tuple[Tensor, Tensor, Tensor]:
    images, points, _ = features.shape
    image = features.new_empty((images, channel_sigma.shape[0], points) if wants_image else 0)
    return image, torch.empty_like(sigma), torch.empty_like(channel_sigma)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, sigma, channel_sigma, _ = inputs
    ctx.save_for_backward(output, sigma, channel_sigma)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants = ctx.needs_input_grad
    found = image_features_grad(grad, *ctx.saved_tensors, wants[0])
    return (*(gradient if wanted else None for gradient, wanted in zip(found, wants, strict=False)), None)


image_features.register_autograd(_backward, setup_context=_context)
