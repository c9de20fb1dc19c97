"""The LIMPQ authors' indicators, a pickle, read without letting it run anything.

Its form (1hunters/LIMPQ, ``indicators_pretraining/importance_extractor.py``)::

    {"weight": {layer: {"6": scale, "5": scale, ...}}, "act": {layer: {...}}, "layer_name": [layer, ...]}

It holds neither MACs nor weight counts nor pinned layers: those come from a second file (`shapes.load_shapes`). Its
layers bear the names of a wrapped model (``module.layer1.0.conv1``): the wrappers' prefixes are taken off.
"""

import hashlib
import io
import pickle
import pickletools
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.interchange.layer_sizes import Shapes

T = TypeVar("T")

MAX_BYTES = 4 * 2**20
"""ResNet-50 takes about 10 KiB."""

GLOBALS = frozenset(("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"))
"""Opcodes that name something outside the file. The unpickler itself refuses them, with the name."""

PLAIN = frozenset(
    (
        *("PROTO", "FRAME", "MARK", "STOP", "POP", "POP_MARK", "DUP"),
        *("NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    )
)
"""Opcodes that build dicts, lists, tuples, strings, ints, floats, bools and None, and nothing else."""

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel, DistributedDataParallel and torch.compile put before the names of a model's layers."""

REMEDY = "an indicators pickle holds only dictionaries, lists, strings and numbers (convert tensors with .item())"


def load_plain_pickle(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """A pickle of dicts, lists, tuples, strings, ints, floats, bools and None.

    Opcodes are read through before anything is built; whatever asks for a class or a function is refused by name, and
    nothing of it runs. Raises RecordError.
    """
    data = _read(path, max_bytes)
    try:
        _check_opcodes(data, path)
        return _PlainUnpickler(data, path).load()
    except RecordError:
        raise
    except Exception as error:  # a damaged pickle raises IndexError, KeyError, ValueError, EOFError, ...
        raise RecordError(
            f"{path} is no whole pickle ({plain(error, 100)}); {REMEDY}; copy or export the file again"
        ) from error


def read_authors_pickle(path: Path, shapes: Shapes | None) -> Indicators:
    """Indicators from the authors' pickle, with MACs, weight counts and pinned layers from ``shapes``.

    Layers keep the pickle's order. Entries of pinned layers are left out, and wrappers' prefixes are taken off names
    that the shapes do not know with them; ``source`` says so. Raises RecordError where the file has another form,
    where a layer has no shape or a shape no layer, and where no shapes are given.
    """
    content = load_plain_pickle(path)
    weight, act = _table(content, "weight", path), _table(content, "act", path)
    names = _names(content, weight, path)
    if shapes is None:
        raise RecordError(
            f"{path} holds the scales of {len(names)} layers, but neither MACs nor weight counts nor pinned layers; "
            "give --shapes FILE, an indicators.json of the same model or a limpq.shapes/1 file"
        )
    pinned = {layer.name for layer in shapes.pinned}
    known = pinned | {layer.name for layer in shapes.layers}
    prefixes = {name: _prefix(name, known) for name in dict.fromkeys((*weight, *act, *names))}
    weight, act = (_bare(table, prefixes, path) for table in (weight, act))
    names = list(_bare(dict.fromkeys(names), prefixes, path))
    left_out = [name for name in names if name in pinned]
    names = [name for name in names if name not in pinned]
    shape = {layer.name: layer for layer in shapes.layers}
    _same_layers(names, list(shape), path, shapes)
    bits = _bits(names, weight, act, path)
    source: dict[str, Any] = {
        "what": "importance indicators in the form of the LIMPQ authors",
        "file": path.name,
        "sha256": hashlib.sha256(_read(path, MAX_BYTES)).hexdigest(),
        "shapes": shapes.source,
    }
    if left_out:
        source["left_out"] = left_out
    taken_off = sorted({prefix for prefix in prefixes.values() if prefix})
    if taken_off:
        source["taken_off_names"] = taken_off
    try:
        return Indicators(
            model=shapes.model,
            bits=bits,
            layers=tuple(
                LayerIndicators(
                    name=name,
                    macs=shape[name].macs,
                    num_weights=shape[name].num_weights,
                    weight=tuple(weight[name][width] for width in bits),
                    act=tuple(act[name][width] for width in bits),
                )
                for name in names
            ),
            pinned=shapes.pinned,
            source=source,
        )
    except ValueError as error:
        raise RecordError(f"{path}: {error}; export the indicators again") from error


class _PlainUnpickler(pickle.Unpickler):
    """Knows no name at all."""

    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data))
        self._path = path

    def find_class(self, module: str, name: str) -> NoReturn:
        raise RecordError(f"{self._path} asks for the Python object {module}.{name}, which was refused; {REMEDY}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise RecordError(f"{self._path} asks for an object outside the file ({pid!r:.60}), refused; {REMEDY}")


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}; expected a pickle of indicators") from error
    if len(data) > max_bytes:
        raise RecordError(f"{path} has more than {max_bytes:,} bytes; {REMEDY}, which takes some KiB")
    if data.startswith(b"PK\x03\x04"):
        raise RecordError(f"{path} is a zip archive, such as torch.save writes; {REMEDY}")
    return data


def _check_opcodes(data: bytes, path: Path) -> None:
    """Nothing but plain containers and scalars up to the first global, where the unpickler stops by itself.

    A memo index is at most the number of opcodes: the C unpickler allocates as much memory as a file's index says.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in GLOBALS:
            return
        if opcode.name not in PLAIN:
            raise RecordError(f"{path} holds a pickled {opcode.name.lower()}, which was refused; {REMEDY}")
        if opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
            raise RecordError(f"{path} is no whole pickle (memo entry {argument} of {count}); export the file again")


def _table(content: Any, key: str, path: Path) -> dict[str, dict[int, float]]:
    """{layer: {bits: scale}} under one key."""
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        kind = f"keys {sorted(map(str, content))[:5]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise RecordError(
            f"{path} holds {kind} at the top; expected a dictionary with 'weight' and 'act', each "
            "{layer: {bits: scale}}"
        )
    return {_text(name, key, path): _scales(scales, f"{key} of layer {name!r}", path) for name, scales in found.items()}


def _scales(found: Any, where: str, path: Path) -> dict[int, float]:
    if not isinstance(found, dict) or not found:
        raise RecordError(f"{path}: {where} is a {type(found).__name__}; expected a dictionary {{bits: scale}}")
    scales: dict[int, float] = {}
    for key, value in found.items():
        text = str(key)
        if isinstance(key, bool) or not (text.isascii() and text.isdigit() and 1 <= len(text) <= 2 and int(text) > 0):
            raise RecordError(f"{path}: {where} has the key {text[:40]!r}; expected a bit-width from 1 to 99")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecordError(f"{path}: {where} at {text} bits is a {type(value).__name__}; expected a number")
        if int(text) in scales:
            raise RecordError(f"{path}: {where} lists {int(text)} bits twice; expected each bit-width once")
        try:
            scales[int(text)] = float(value)
        except OverflowError as error:
            raise RecordError(f"{path}: {where} at {text} bits is beyond all numbers; expected a scale") from error
    return scales


def _names(content: dict[Any, Any], weight: dict[str, Any], path: Path) -> list[str]:
    """Layers in the file's order: ``layer_name``, or else the order of ``weight``."""
    listed = content.get("layer_name", list(weight))
    if not isinstance(listed, list | tuple):
        raise RecordError(f"{path}: layer_name is a {type(listed).__name__}; expected a list of layer names")
    names = [_text(name, "layer_name", path) for name in listed]
    name, times = Counter(names).most_common(1)[0] if names else ("", 1)
    if times > 1:
        raise RecordError(f"{path}: layer_name lists {name!r} {times} times; expected every layer once")
    return names


def _text(value: Any, where: str, path: Path) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{path}: {where} names a layer by a {type(value).__name__}; expected a string")
    return value


def _prefix(name: str, known: set[str]) -> str:
    """What wrappers have put before a name, where that is known without it only."""
    bare = name
    while bare not in known:
        wrapper = next((one for one in WRAPPERS if bare.startswith(one)), None)
        if wrapper is None:
            return ""
        bare = bare.removeprefix(wrapper)
    return name.removesuffix(bare)


def _bare(table: dict[str, T], prefixes: dict[str, str], path: Path) -> dict[str, T]:
    """A table without prefixes. Raises RecordError where two of its names become one."""
    bare: dict[str, T] = {}
    for name, value in table.items():
        short = name.removeprefix(prefixes[name])
        if short in bare:
            raise RecordError(
                f"{path} lists layer {short!r} both with and without a wrapper's prefix; expected it once"
            )
        bare[short] = value
    return bare


def _same_layers(names: list[str], known: list[str], path: Path, shapes: Shapes) -> None:
    without_shape = sorted(set(names) - set(known))
    without_scale = sorted(set(known) - set(names))
    for missing, what in ((without_shape, "no shape in"), (without_scale, "no scales beside")):
        if missing:
            raise RecordError(
                f"{path}: layer {missing[0]!r} has {what} {shapes.source['file']} ({len(missing)} such layers; "
                f"{len(names)} in the pickle, {len(known)} in the shapes); give the shapes of the same model"
            )


def _bits(
    names: list[str], weight: dict[str, dict[int, float]], act: dict[str, dict[int, float]], path: Path
) -> tuple[int, ...]:
    """The bit-widths, ascending; every layer has the same ones for its weight and for its input."""
    bits: tuple[int, ...] | None = None
    for name in names:
        for kind, table in (("weight", weight), ("act", act)):
            if name not in table:
                raise RecordError(f"{path}: layer {name!r} has no {kind} scales; export the indicators again")
            found = tuple(sorted(table[name]))
            bits = bits or found
            if found != bits:
                raise RecordError(
                    f"{path}: {kind} of layer {name!r} has scales for {list(found)} bits, other layers for "
                    f"{list(bits)}; expected the same for all"
                )
    if bits is None:
        raise RecordError(f"{path} lists no searched layer; expected at least one")
    return bits
