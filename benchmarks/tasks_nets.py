"""A small U-Net and a tiny detector for drawn shapes, as a user would write them, and what makes boxes of its heads."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.calibration.datasets import Preprocess

SIDE, KINDS, STRIDE = 64, 3, 8
SCORE, OVERLAP = 0.05, 0.5
PREPROCESS = Preprocess(height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class UNet(nn.Module):
    """Logits [N, kinds + background, side, side]."""

    preprocess = PREPROCESS

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first = block(3, width)
        self.down1 = nn.Sequential(block(width, 2 * width, 2), block(2 * width, 2 * width))
        self.down2 = nn.Sequential(block(2 * width, 4 * width, 2), block(4 * width, 4 * width))
        self.up1 = block(6 * width, 2 * width)
        self.up2 = block(3 * width, width)
        self.head = nn.Conv2d(width, KINDS + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.first(x)
        middle = self.down1(fine)
        coarse = self.down2(middle)
        middle = self.up1(torch.cat([F.interpolate(coarse, scale_factor=2.0, mode="nearest"), middle], 1))
        fine = self.up2(torch.cat([F.interpolate(middle, scale_factor=2.0, mode="nearest"), fine], 1))
        return self.head(fine)


class Detector(nn.Module):
    """Raw heads in a dict: ``scores`` [N, kinds, cells, cells], and ``boxes`` [N, 4, cells, cells] around each cell's
    centre."""

    preprocess = PREPROCESS

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            block(3, width, 2), block(width, 2 * width, 2), block(2 * width, 2 * width), block(2 * width, 4 * width, 2)
        )
        self.neck = nn.Sequential(block(4 * width, 4 * width), block(4 * width, 4 * width))
        self.scores = nn.Sequential(block(4 * width, 2 * width), nn.Conv2d(2 * width, KINDS, 1))
        self.boxes = nn.Sequential(block(4 * width, 2 * width), nn.Conv2d(2 * width, 4, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.neck(self.backbone(x))
        return {"scores": self.scores(features), "boxes": self.boxes(features)}


def unet() -> UNet:
    return UNet()


def detector() -> Detector:
    return Detector()


def decode(outputs: tuple[NDArray[np.float32], ...]) -> list[NDArray[np.float32]]:
    """Of each image boxes [boxes, 6] in pixels: x1, y1, x2, y2, score, kind; overlapping ones of a kind suppressed."""
    scores, boxes = outputs
    return [_suppressed(_candidates(1 / (1 + np.exp(-one)), other)) for one, other in zip(scores, boxes, strict=True)]


def _candidates(scores: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    kinds, rows, columns = np.nonzero(scores > SCORE)
    dx, dy, width, height = boxes[:, rows, columns]
    x, y = STRIDE * (columns + 0.5 + dx), STRIDE * (rows + 0.5 + dy)
    width, height = STRIDE * np.exp(np.clip(width, -4, 4)), STRIDE * np.exp(np.clip(height, -4, 4))
    found = (x - width / 2, y - height / 2, x + width / 2, y + height / 2, scores[kinds, rows, columns], kinds)
    return np.stack(found, 1).astype(np.float32)


def _suppressed(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    left, kept = boxes[np.argsort(-boxes[:, 4], kind="stable")], []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low, high = np.maximum(best[:2], left[:, :2]), np.minimum(best[2:4], left[:, 2:4])
        both = np.prod(np.clip(high - low, 0, None), axis=1)
        areas = np.prod(left[:, 2:4] - left[:, :2], axis=1) + np.prod(best[2:4] - best[:2])
        left = left[(both <= OVERLAP * (areas - both)) | (left[:, 5] != best[5])]
    return np.stack(kept) if kept else np.zeros((0, 6), np.float32)


def train_detector(model: Detector, images: NDArray[np.uint8], boxes: list[list[Any]], *, steps: int) -> None:
    """A plain training loop: every box teaches the cell of its centre."""
    pixels = torch.from_numpy(PREPROCESS.normalise(images.transpose(0, 3, 1, 2)))
    scores, sides, known = _targets(boxes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    order = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(pixels), (32,), generator=order)
        found = model(pixels[chosen])
        p = torch.sigmoid(found["scores"])
        hard = torch.where(scores[chosen] > 0, 1 - p, p).detach() ** 2
        loss = F.binary_cross_entropy_with_logits(found["scores"], scores[chosen], weight=hard, reduction="sum")
        off = F.smooth_l1_loss(found["boxes"], sides[chosen], reduction="none", beta=0.1).sum(1)
        loss = (loss + (off * known[chosen]).sum()) / 32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def _targets(boxes: list[list[Any]]) -> tuple[Tensor, Tensor, Tensor]:
    cells = SIDE // STRIDE
    scores = torch.zeros(len(boxes), KINDS, cells, cells)
    sides, known = torch.zeros(len(boxes), 4, cells, cells), torch.zeros(len(boxes), cells, cells)
    for image, some in enumerate(boxes):
        for x1, y1, x2, y2, kind in some:
            x, y = (x1 + x2) / 2 / STRIDE, (y1 + y2) / 2 / STRIDE
            column, row = min(int(x), cells - 1), min(int(y), cells - 1)
            scores[image, kind, row, column] = known[image, row, column] = 1
            wide, high = np.log((x2 - x1) / STRIDE), np.log((y2 - y1) / STRIDE)
            sides[image, :, row, column] = torch.tensor([x - column - 0.5, y - row - 0.5, wide, high])
    return scores, sides, known
