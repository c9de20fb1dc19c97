"""Trained weights from safetensors files. Pickles are not opened: loading one can run any code."""

from pathlib import Path

from torch import Tensor, nn

from limpq_deploy.calibration.errors import MissingExtra, ModelError

PICKLES = (".pth", ".pt", ".bin", ".th", ".ckpt", ".pkl", ".tar")


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the weights of a safetensors file into ``model``.

    Every parameter and buffer must be there with its shape, and nothing else; only BatchNorm's ``num_batches_tracked``,
    which inference does not use, may be absent. Raises ModelError with the first differences otherwise, and leaves the
    model as it was.
    """
    found = _load_tensors(Path(path))
    expected = model.state_dict()
    required = {name for name in expected if not name.endswith("num_batches_tracked")}
    differences = [
        _listed("missing", sorted(required - found.keys())),
        _listed("not in the model", sorted(found.keys() - expected.keys())),
        _listed(
            "of another shape",
            [
                f"{name} ({_shape(found[name])} in the file, {_shape(tensor)} in the model)"
                for name, tensor in expected.items()
                if name in found and found[name].shape != tensor.shape
            ],
        ),
    ]
    told = [difference for difference in differences if difference]
    if told:
        raise ModelError(
            f"{path} holds weights of another model than {type(model).__name__}: {'; '.join(told)}; name the "
            "model that they belong to, or rename the tensors"
        )
    damaged = [name for name, tensor in found.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if damaged:
        raise ModelError(f"{path} has values that are not finite: {_listed('damaged', damaged)}; train the model again")
    model.load_state_dict(found, strict=False)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"{path} is a pickle, which can run code when opened; if you trust it convert it once: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
        )
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise MissingExtra(
            "weights are read with safetensors, which is not installed; run: pip install 'limpq-deploy[train]'"
        ) from error
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read weights {path}: {error.strerror}; expected a safetensors file") from error
    except SafetensorError as error:
        raise ModelError(f"{path} is not a whole safetensors file ({error}); make or copy it again") from error


def _listed(what: str, names: list[str], limit: int = 3) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:limit])
    return f"{len(names)} {what} ({shown}{', ...' if len(names) > limit else ''})"


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
