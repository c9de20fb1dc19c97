import math

import pytest
import torch
from torch.nn import functional as F

from limpq_deploy.train.losses import Teacher, cross_entropy, distilled, teaching

IMAGES = torch.zeros(3, 1, 2, 2)
LABELS = torch.tensor([0, 1, 0])


def test_a_float_teacher_is_asked_once_for_a_batch_and_anew_for_the_next() -> None:
    asked = []

    def model(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return torch.ones(len(images), 2)

    teacher = Teacher(model)
    for batch in (IMAGES, IMAGES, torch.zeros(5, 1, 2, 2), IMAGES):
        assert teacher.outputs(batch).shape == (len(batch), 2)
    assert asked == [3, 5]


def test_the_first_pass_teaches_the_others_and_gets_no_gradient_from_them() -> None:
    high = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    low = torch.zeros(3, 2, requires_grad=True)
    teacher = Teacher()
    teaching(teacher, cross_entropy(0.0))(high, LABELS, IMAGES)
    distilled(teacher, cross_entropy(0.0), weight=1.0, temperature=1.0)(low, LABELS, IMAGES).backward()
    assert high.grad is None
    # The gradient of the KL divergence at temperature 1, mean over the images.
    torch.testing.assert_close(low.grad, (low.softmax(1) - high.softmax(1)).detach() / 3)


def test_a_student_who_agrees_has_nothing_to_learn_but_the_labels() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.0, 3.0], [1.0, 1.0]])
    teacher = Teacher(lambda images: logits)
    own = cross_entropy(0.0)
    assert distilled(teacher, own, weight=1.0, temperature=3.0)(logits, LABELS, IMAGES).item() == pytest.approx(0)
    half = distilled(teacher, own, weight=0.5, temperature=3.0)(logits, LABELS, IMAGES)
    assert half.item() == pytest.approx(0.5 * F.cross_entropy(logits, LABELS).item())


def test_the_temperature_keeps_the_size_of_gradients() -> None:
    """For small logits, T^2 KL at temperature T nears the KL at temperature 1 (Hinton et al., section 2.1)."""
    generator = torch.Generator().manual_seed(0)
    small = 1e-2 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    teacher = Teacher(lambda images: torch.zeros(3, 5, dtype=torch.float64))
    cold, hot = (
        distilled(teacher, cross_entropy(0.0), weight=1.0, temperature=t)(small, LABELS, IMAGES) for t in (1, 8)
    )
    # Terms of third order are 1e-2 of the loss.
    assert math.isclose(cold, hot, rel_tol=2e-2)


def test_a_teacher_forgets_a_batch_with_its_images() -> None:
    asked = []

    def model(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return images.flatten(1)

    teacher = Teacher(model)
    for _ in range(3):
        teacher.outputs(torch.zeros(1, 1, 2, 2))
    assert asked == [1, 1, 1]
    assert len(teacher._outputs) == 0
