"""Tensors that people pass in, checked and brought into the operators' layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_COMPUTE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


def compute_dtype(name: str, tensor: Any) -> torch.dtype:
    """The dtype that a tensor is computed in."""
    device(name, tensor)
    if tensor.dtype not in _COMPUTE:
        raise TypeError(f"{name}: must be float16, bfloat16, float32 or float64, got {tensor.dtype}")
    return _COMPUTE[tensor.dtype]


def device(name: str, tensor: Any) -> torch.device:
    """The device of what must be a tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: must be a torch tensor, got {type(tensor).__name__}")
    return tensor.device


def scores(logits: Tensor) -> Tensor:
    """Logits ``[B, L, *spatial]`` in the dtype to compute in."""
    dtype = compute_dtype("logits", logits)
    if not 3 <= logits.ndim <= 5:
        raise ValueError(f"logits: must have shape [B, L, *spatial] with 1 to 3 axes, got {list(logits.shape)}")
    if logits.numel() == 0:
        raise ValueError(f"logits: must not be empty, got shape {list(logits.shape)}")
    return logits.to(dtype)


def values(name: str, tensor: Any) -> tuple[Tensor, tuple[int, ...]]:
    """Values as ``[B, C, n]`` in the dtype to compute in, and the spatial shape."""
    device(name, tensor)
    dtype = compute_dtype(name, tensor)
    if not 3 <= tensor.ndim <= 5:
        raise ValueError(f"{name}: must have shape [B, C, *spatial] with 1 to 3 axes, got {list(tensor.shape)}")
    if tensor.numel() == 0:
        raise ValueError(f"{name}: must not be empty, got shape {list(tensor.shape)}")
    return tensor.flatten(2).to(dtype), tuple(tensor.shape[2:])


def mask(given: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Mask as ones and zeros ``[B, n]`` in the dtype of ``like [B, C, n]``."""
    if given is None:
        return None
    device("mask", given)
    batch = like.shape[0]
    if given.dtype != torch.bool:
        raise TypeError(f"mask: must be bool, got {given.dtype}")
    if tuple(given.shape) not in ((batch, *shape), (batch, 1, *shape)):
        raise ValueError(f"mask: must have shape {[batch, *shape]}, got {list(given.shape)}")
    same_device("mask", given, like)
    return given.reshape(batch, -1).to(like.dtype)


def gathered(points: Tensor, taking_part: Tensor) -> Tensor:
    """Points ``[B, n, d]`` of which those without a part stand where one of their image's others does.

    So they add no vertices to the lattice; what they hold (NaN too) does not matter.
    """
    flags = taking_part.unsqueeze(2) > 0
    finite = torch.where(flags, points, 0)
    first = taking_part.argmax(dim=1).view(-1, 1, 1).expand(-1, 1, points.shape[2])
    return torch.where(flags, points, finite.gather(1, first))


def bandwidth(name: str, tensor: Any) -> Tensor:
    """Refuse what is no bandwidth; values are looked at where that is free: on the CPU, and not while tracing."""
    device(name, tensor)
    compute_dtype(name, tensor)
    if torch.compiler.is_compiling() or type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
        return tensor
    if not bool(((tensor > 0) & tensor.isfinite()).all()):
        raise ValueError(f"{name}: must be positive and finite, got {tensor.tolist()}")
    return tensor


def same_device(name: str, tensor: Tensor, like: Tensor) -> None:
    """Refuse tensors on two devices."""
    if tensor.device != like.device:
        raise ValueError(f"{name}: must be on the device of the others, {like.device}, got {tensor.device}")


def positions(sigma: Tensor, shape: Sequence[int]) -> Tensor:
    """Positions over bandwidths, ``[axes, *shape]``, last axis first: x, y, z."""
    out = []
    for axis in reversed(range(len(shape))):
        line = torch.arange(shape[axis], device=sigma.device, dtype=sigma.dtype) / sigma.select(0, axis)
        out.append(line.view([-1 if a == axis else 1 for a in range(len(shape))]).expand(*shape))
    return torch.stack(out)


def image(name: str, given: Any, logits: Tensor) -> Tensor:
    """Image or features ``[B, C, *spatial]`` that go with logits, in their dtype."""
    device(name, given)
    if given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"{name}: must be of real numbers, got {given.dtype}")
    if given.numel() == 0:
        raise ValueError(f"{name}: must not be empty, got shape {list(given.shape)}")
    if given.ndim != logits.ndim or given.shape[0] != logits.shape[0]:
        raise ValueError(
            f"{name}: must have shape [B, C, *spatial] to go with logits {list(logits.shape)}, got {list(given.shape)}"
        )
    if given.shape[2:] != logits.shape[2:]:
        raise ValueError(
            f"{name}: must be of the logits' size {list(logits.shape[2:])}, got shape {list(given.shape)}; bring both "
            f"to one size, as with torch.nn.functional.interpolate(logits, {name}.shape[2:], mode='bilinear')"
        )
    same_device(name, given, logits)
    return given.to(logits.dtype)
