"""Folder trees of images."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limpq_deploy.calibration.datasets import DataSet, Preprocess, open_dataset
from limpq_deploy.calibration.errors import DataError

SMALL = Preprocess(height=8, width=8, mean=(0.0,) * 3, std=(1 / 255,) * 3)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Ten cats (grey 10..19) and ten dogs (grey 110..119) to train, two of each to test."""
    root = tmp_path / "pets"
    for split, num in (("train", 10), ("test", 2)):
        for label, level in (("cat", 10), ("dog", 110)):
            for index in range(num):
                _write(root / split / label / f"{index:02d}.png", level + index)
    return root


def _write(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, level)).save(path)


def _open(root: Path, classes: Path | None = None) -> DataSet:
    return open_dataset(f"imagefolder:{root}", SMALL, classes)


def _levels(dataset: DataSet, split: str) -> list[int]:
    return [round(float(image[0, 0, 0])) for images, _ in dataset.split(split).batches(3) for image in images]


def test_classes_are_sorted_folders_and_the_last_tenth_of_train_validates(tree: Path) -> None:
    pets = _open(tree)
    assert pets.classes == ("cat", "dog")
    assert _levels(pets, "train") == [*range(10, 19), *range(110, 119)]
    assert _levels(pets, "val") == [19, 119]
    assert pets.val_held_out
    assert _levels(pets, "test") == [10, 11, 110, 111]
    assert pets.split("test").labels.tolist() == [0, 0, 1, 1]


def test_a_val_folder_is_used_and_leaves_train_whole(tree: Path) -> None:
    _write(tree / "val" / "cat" / "a.png", 1)
    _write(tree / "val" / "dog" / "a.png", 2)
    pets = _open(tree)
    assert len(pets.split("train")) == 20
    assert _levels(pets, "val") == [1, 2]
    assert not pets.val_held_out


def test_only_the_splits_that_are_needed_must_exist(tree: Path) -> None:
    (tree / "test").rename(tree / "elsewhere")
    with pytest.raises(DataError, match="no split 'test', only train, val"):
        _open(tree)
    assert len(open_dataset(f"imagefolder:{tree}", SMALL, needs=("train",)).split("train")) == 18


def test_what_lies_in_other_splits_is_not_looked_at(tree: Path) -> None:
    (tree / "val").mkdir()
    (tree / "train" / "cat" / "00.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"val holds no image|the file is empty"):
        _open(tree)
    alone = open_dataset(f"imagefolder:{tree}", SMALL, needs=("test",))
    assert (list(alone.splits), alone.classes) == (["test"], ("cat", "dog"))
    with pytest.raises(DataError, match=r"pets has no folder val, only train, test|val holds no image"):
        open_dataset(f"imagefolder:{tree}", SMALL, needs=("val",))


def test_validation_images_may_be_held_out_of_train_alone(tree: Path) -> None:
    (tree / "test" / "cat" / "00.png").write_bytes(b"")
    assert _levels(open_dataset(f"imagefolder:{tree}", SMALL, needs=("val",)), "val") == [19, 119]


@pytest.mark.parametrize("name", ["valid", "validation", "Valid"])
def test_other_names_of_val_are_known_and_two_are_refused(tree: Path, name: str) -> None:
    _write(tree / name / "cat" / "a.png", 1)
    _write(tree / name / "dog" / "a.png", 2)
    assert _levels(_open(tree), "val") == [1, 2]
    (tree / "val").mkdir()
    with pytest.raises(DataError, match=r"pets/\w+ and .*pets/\w+ are both the split val; keep one"):
        _open(tree)


@pytest.mark.parametrize("name", ["dev", "Val_images", "evaluation"])
def test_a_folder_that_seems_to_be_val_is_not_passed_over(tree: Path, name: str) -> None:
    _write(tree / name / "cat" / "a.png", 1)
    with pytest.raises(DataError, match=rf"pets/{name} may be meant for validation, .*; rename it to val"):
        _open(tree)
    _write(tree / "val" / "cat" / "a.png", 1)
    _write(tree / "val" / "dog" / "a.png", 2)
    assert _levels(_open(tree), "val") == [1, 2]


def test_where_no_split_is_asked_for_all_that_there_are_are_opened(tree: Path) -> None:
    (tree / "dev").mkdir()
    (tree / "valid").mkdir()
    assert list(open_dataset(f"imagefolder:{tree}", SMALL, needs=("test",)).splits) == ["test"]
    shutil.rmtree(tree / "train")
    (tree / "valid").rmdir()
    assert list(open_dataset(f"imagefolder:{tree}", SMALL, needs=()).splits) == ["test"]
    shutil.rmtree(tree / "test")
    with pytest.raises(DataError, match=r"pets has no folder train, val or test; expected"):
        open_dataset(f"imagefolder:{tree}", SMALL, needs=())


def test_splits_are_known_in_upper_case(tree: Path) -> None:
    for split in ("train", "test"):
        (tree / split).rename(tree / split.title())
    assert _levels(_open(tree), "test") == [10, 11, 110, 111]


def test_files_that_torchvision_skips_are_skipped(tree: Path) -> None:
    before = _open(tree).split("train").labels.tolist()
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "README.txt", "README", "list.csv", "._00.png"):
        (tree / "train" / "cat" / name).write_bytes(b"" if name == "README" else b"x")
    assert _open(tree).split("train").labels.tolist() == before
    _write(tree / "train" / "cat" / "big.PNG", 3)
    assert len(_open(tree).split("train")) + 2 == 21


def test_a_class_of_other_files_alone_is_named(tree: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps(["cat", "dog", "eel"]))
    (tree / "train" / "eel").mkdir()
    with pytest.raises(DataError, match=r"train/eel holds no image; expected files that end in \.jpg"):
        _open(tree)
    assert len(_open(tree, classes).classes) == 3
    (tree / "train" / "eel" / "a.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"train/eel holds no image"):
        _open(tree, classes)


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"a\nb", b"a\tb", "a\u2028b".encode(), "\u202egac".encode(), b"a\x85b", b" "]
)
def test_a_class_that_is_no_line_of_text_is_refused_when_the_folder_is_opened(tree: Path, name: bytes) -> None:
    for split in ("train", "test"):
        os.rename(os.fsencode(tree / split / "dog"), os.fsencode(tree / split) + b"/" + name)
    with pytest.raises(DataError, match="has a class") as caught:
        _open(tree)
    str(caught.value).encode()
    assert len(str(caught.value).splitlines()) == 1


def test_a_class_list_with_such_a_name_is_refused(tree: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.json"
    classes.write_text('["cat", "dog", "a\\ud800b"]')
    with pytest.raises(DataError, match="is not valid JSON"):
        _open(tree, classes)


def test_a_file_name_that_is_no_text_is_read_and_escaped_in_errors(tree: Path) -> None:
    odd = os.fsencode(tree / "test" / "cat") + b"/00\xe9\n.png"
    os.rename(os.fsencode(tree / "test" / "cat" / "00.png"), odd)
    assert _levels(_open(tree), "test") == [10, 11, 110, 111]
    Path(os.fsdecode(odd)).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read image .*test/cat/00\\udce9\\n\.png: not an image"):
        _open(tree).check()


def test_a_folder_whose_own_name_is_no_text_gives_a_name_that_is(tree: Path) -> None:
    odd = tree.with_name(os.fsdecode(b"p\xe9ts\n"))
    tree.rename(odd)
    assert _open(odd).name.endswith("/p\\udce9ts\\n")


def test_an_exif_orientation_is_not_applied_and_alpha_is_dropped_as_torchvision_does(tree: Path) -> None:
    folder = tree / "test" / "cat"
    turned = Image.new("RGB", (8, 8))
    turned.putpixel((0, 0), (200, 200, 200))
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees to the right
    turned.save(folder / "00.png", exif=exif)
    Image.new("RGBA", (8, 8), (50, 60, 70, 0)).save(folder / "01.png")
    images, _ = next(_open(tree).split("test").batches(2))
    assert images[0, 0].argmax() == 0  # top left, as stored; shown it would be top right
    assert images[1, :, 3, 3].round().tolist() == [50, 60, 70]


def test_hidden_files_and_folders_are_ignored_and_deeper_images_found(tree: Path) -> None:
    (tree / "test" / "cat" / ".DS_Store").write_bytes(b"x")
    _write(tree / "test" / ".cache" / "a.png", 1)
    _write(tree / "test" / "dog" / "more" / "a.png", 112)
    assert _levels(_open(tree), "test") == [10, 11, 110, 111, 112]


def test_a_class_list_gives_the_models_indices_and_allows_partial_splits(tree: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps([*(f"animal{index}" for index in range(998)), "dog", "cat"]))
    for image in (tree / "test" / "dog").iterdir():
        image.unlink()
    pets = _open(tree, classes)
    assert len(pets.classes) == 1000
    assert set(pets.split("train").labels.tolist()) == {998, 999}
    assert pets.split("test").labels.tolist() == [999, 999]


def test_folders_outside_the_class_list_are_named(tree: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.json"
    classes.write_text('["cat"]')
    with pytest.raises(DataError, match=r"folders that .*classes.json does not list: 'dog'"):
        _open(tree, classes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ('{"cat": 0}', "must be a JSON list"),
        ('["cat", 1]', "must be a JSON list"),
        ('["cat", "dog", "cat"]', "repeats 'cat'"),
    ],
)
def test_a_bad_class_list_is_one_sentence(tree: Path, tmp_path: Path, text: str, says: str) -> None:
    classes = tmp_path / "classes.json"
    classes.write_text(text)
    with pytest.raises(DataError, match=says):
        _open(tree, classes)


def test_a_missing_class_list_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class list: cannot read .*absent.json"):
        _open(tree, tmp_path / "absent.json")


def test_splits_with_different_classes_need_a_class_list(tree: Path) -> None:
    _write(tree / "train" / "owl" / "a.png", 1)
    with pytest.raises(DataError, match=r"test has no images of 'owl'.*--classes"):
        _open(tree)


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data folder .*nowhere does not exist; expected a folder with train"):
        _open(tmp_path / "nowhere")


def test_a_folder_without_splits_or_images_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder train, val or test"):
        _open(tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="train/cat holds no image"):
        _open(tmp_path)


def test_an_unknown_input_size_is_asked_for(tree: Path) -> None:
    with pytest.raises(DataError, match=r"'preprocess' attribute: model\.preprocess = Preprocess"):
        open_dataset(f"imagefolder:{tree}")


def test_an_empty_file_is_found_when_the_folder_is_opened(tree: Path) -> None:
    (tree / "test" / "cat" / "00.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"test/cat/00.png: the file is empty"):
        _open(tree)


def test_a_broken_link_is_found_when_the_folder_is_opened(tree: Path) -> None:
    (tree / "test" / "cat" / "gone.png").symlink_to(tree / "nowhere.png")
    with pytest.raises(DataError, match=r"test/cat/gone.png: No such file"):
        _open(tree)


def test_a_folder_that_cannot_be_listed_is_named(tree: Path) -> None:
    (tree / "test" / "cat" / "again").symlink_to(tree / "test" / "cat")  # a circle ends at the system's limit of links
    with pytest.raises(DataError, match=r"cannot (list|read image) .*cat/again.*: Too many levels"):
        _open(tree)


def test_text_and_truncated_images_are_found_by_check_and_by_batches(tree: Path) -> None:
    good = (tree / "test" / "cat" / "00.png").read_bytes()
    for damage, says in ((b"not an image", "not an image that Pillow knows"), (good[:-30], "test/cat/00.png: ")):
        (tree / "test" / "cat" / "00.png").write_bytes(damage)
        pets = _open(tree)
        with pytest.raises(DataError, match=says):
            pets.check()
        with pytest.raises(DataError, match=r"cannot read image .*test/cat/00.png"):
            list(pets.split("test").batches(2))


def test_sixteen_bit_pixels_are_refused_rather_than_cut_off(tree: Path) -> None:
    deep = np.full((8, 8), 30000, np.uint16)
    Image.fromarray(deep).save(tree / "test" / "cat" / "00.png")
    with pytest.raises(DataError, match=r"00.png has pixels of more than 8 bits"):
        _open(tree).check()


def test_palette_grey_and_alpha_images_become_rgb(tree: Path) -> None:
    for mode in ("P", "L", "RGBA", "CMYK"):
        suffix = "jpg" if mode == "CMYK" else "png"
        picture = Image.new("RGB", (8, 8), (9, 9, 9)).convert(mode, palette=Image.Palette.ADAPTIVE)
        picture.save(tree / "test" / "cat" / f"0-{mode}.{suffix}")
    levels = _levels(_open(tree), "test")
    assert all(abs(level - 9) <= 1 for level in levels[:4])  # JPEG and CMYK round


def test_the_digest_changes_with_a_file_and_not_with_the_day(tree: Path) -> None:
    before = _open(tree).digest()
    assert _open(tree).digest() == before
    path = tree / "train" / "dog" / "03.png"
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    touched = _open(tree).digest()
    path.rename(path.with_name("30.png"))
    assert len({before, touched, _open(tree).digest()}) == 3


def test_the_shared_cifar_tree_opens_with_its_splits(shared: Path, tmp_path: Path) -> None:
    """One sheet of the shared images, cut as `unpack.py` cuts it."""
    sheet = np.asarray(Image.open(shared / "data" / "cifar10" / "test-00.webp").convert("RGB"))
    tiles = sheet.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)[:8]
    for index, tile in enumerate(tiles):
        path = tmp_path / "test" / str(index % 2) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).save(path)
    preprocess = Preprocess(height=32, width=32, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    images, _ = next(open_dataset(f"imagefolder:{tmp_path}", preprocess, needs=("test",)).split("test").batches(8))
    np.testing.assert_array_equal(images.round(), tiles[[0, 2, 4, 6, 1, 3, 5, 7]].transpose(0, 3, 1, 2))
