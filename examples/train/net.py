"""A small segmentation network: scores at an eighth of the resolution, enlarged bilinearly."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

DILATIONS = (1, 2, 1, 4, 1, 8, 1, 16, 1, 2, 1, 4)


def conv_bn_relu(c_in: int, c_out: int, size: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    conv = nn.Conv2d(c_in, c_out, size, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class Block(nn.Module):
    """Residual bottleneck with one dilated 3x3 convolution."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        inner = 3 * width // 4
        last = nn.BatchNorm2d(width)
        nn.init.zeros_(last.weight)  # starts as the identity
        self.body = nn.Sequential(
            conv_bn_relu(width, inner, 1),
            conv_bn_relu(inner, inner, 3, dilation=dilation),
            nn.Conv2d(inner, width, 1, bias=False),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class SegmentationNet(nn.Module):
    """Image ``[B, 3, H, W]`` from 0 to 255 to scores ``[B, L, H, W]``; 1.4 M parameters at width 128."""

    def __init__(self, num_labels: int, width: int = 128) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn_relu(3, width // 4, 5, stride=2),
            conv_bn_relu(width // 4, width // 2, stride=2),
            conv_bn_relu(width // 2, width, stride=2),
        )
        self.blocks = nn.Sequential(*(Block(width, d) for d in DILATIONS))
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.ReLU(inplace=True))
        self.classifier = nn.Conv2d(width, num_labels, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(self.stem((image.float() - 110) / 70))
        scores = self.classifier(x + self.context(x))
        return F.interpolate(scores, size=image.shape[-2:], mode="bilinear", align_corners=False)
