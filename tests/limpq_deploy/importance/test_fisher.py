"""Which values of a tensor belong to which image."""

import torch

from limpq_deploy.importance.fisher import by_image


def test_images_are_found_on_whatever_axis_they_are_and_in_rows_of_tokens() -> None:
    values = torch.arange(24.0).reshape(2, 3, 4)
    expected = values.reshape(2, -1)
    assert torch.equal(by_image(values, 2), expected)
    assert torch.equal(by_image(values.transpose(0, 1).contiguous(), 2), expected)
    assert torch.equal(by_image(values.flatten(0, 1), 2), expected)
