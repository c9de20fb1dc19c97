"""CONTRIBUTING.md shows the house as it is: every room with its place, in the order that imports are held to."""

import re
from itertools import groupby
from pathlib import Path

from ..test_import_direction import ROOMS

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([\w/]+/)` \| (.+) \|$", re.M)
FLOW = re.compile(r"^ (limpq_deploy|export)/ +(\w+(?: ► \w+)+)$", re.M)


def test_the_table_names_every_room_and_no_other() -> None:
    named = []
    for room, holds in ROW.findall(PAGE):
        named.append(room.rstrip("/"))
        named += [f"{room}{inner}" for inner in re.findall(r"`(\w+)/`", holds)]
    assert sorted(named) == sorted(ROOMS)


def test_the_table_and_the_picture_have_the_rooms_in_their_order() -> None:
    tops = [room for room, _ in groupby("/".join(room.split("/")[:2]) for room in ROOMS)]
    rows = [room.rstrip("/") for room, _ in ROW.findall(PAGE)]
    assert rows == tops
    drawn = {folder: line.split(" ► ") for folder, line in FLOW.findall(PAGE)}
    assert drawn.keys() == {"limpq_deploy", "export"}
    for folder, names in drawn.items():
        assert names[::-1] == [room.split("/")[1] for room in tops if room.startswith(f"{folder}/")]


def test_files_and_folders_that_the_page_names_are_there() -> None:
    root = Path(__file__).parents[2]
    paths = re.findall(r"`((?:limpq_deploy|export|calibration|tests|docs)/[\w./]+)`", PAGE)
    assert len(paths) > 40
    assert [name for name in paths if "NAME" not in name and not (root / name).exists()] == []
