"""A state dict that says of which version each module is."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def of_own_versions(module: nn.Module, tensors: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """With the versions of the module's own parts, which a file of tensors does not hold: the names and shapes fit this
    module. Parts that take a missing version for their first one change or refuse what they are given (torchvision's
    MNASNet)."""
    dated = OrderedDict(tensors)
    dated._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    return dated
