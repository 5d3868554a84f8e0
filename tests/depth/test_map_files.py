"""What folders and lists hold: links, hidden files, masks, and tables as spreadsheets write them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image

from perceptok.depth import MapFile, ReadOptions, find_maps
from perceptok.errors import DepthMapError


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.arange(1.0, 13).reshape(3, 4))
    return path


def names(*paths: Path) -> list[str]:
    return [file.name for file in find_maps(paths, ReadOptions(kind="metric", unit="m"))]


class TestFolders:
    def test_hidden_files_and_masks_are_no_maps(self, tmp_path: Path) -> None:
        for name in (
            "a.npy",
            "._a.npy",
            ".hidden/b.npy",
            "a_mask.npy",
            "c_mask.npy",
            "d/e_depth.npy",
            "d/e_depth_mask.npy",
        ):
            put(tmp_path / name)
        assert names(tmp_path) == ["a.npy", "c_mask.npy", "d/e_depth.npy"]

    def test_links_to_folders_are_followed_and_loops_end(self, tmp_path: Path) -> None:
        put(tmp_path / "elsewhere" / "a.npy")
        put(tmp_path / "maps" / "b.npy")
        (tmp_path / "maps" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "maps" / "up").symlink_to(tmp_path / "maps")
        (tmp_path / "elsewhere" / "across").symlink_to(tmp_path / "maps")
        assert names(tmp_path / "maps") == ["b.npy", "link/a.npy"]


class TestTables:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_encodings_and_delimiters(self, tmp_path: Path, encoding: str, delimiter: str) -> None:
        put(tmp_path / "Küche.npy")
        rows = [["file", "kind", "metres_per_value"], ["Küche.npy", "metric", "1/5000"]]
        text = "\r\n".join(delimiter.join(row) for row in rows) + "\r\n"
        (tmp_path / "list.csv").write_bytes(text.encode(encoding))
        (file,) = find_maps([tmp_path / "list.csv"])
        assert file.name == "Küche.npy"
        assert file.read().values[0, 1] == np.float32(2 / 5000)

    def test_invalid_and_mask_columns(self, tmp_path: Path) -> None:
        put(tmp_path / "a.npy")
        Image.fromarray(np.array([[0, 1, 1, 1]] * 3, np.uint8)).save(tmp_path / "m.png")
        (tmp_path / "list.csv").write_text("file,kind,unit,invalid,mask\na.npy,metric,m,2 12,m.png\n\n")
        (file,) = find_maps([tmp_path / "list.csv"])
        assert file.read().valid.tolist() == [
            [False, False, True, True],
            [False] + [True] * 3,
            [False] + [True] * 2 + [False],
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("file,kind\n,metric\n", "line 2: the column file is empty"),
            ("kind,file\nmetric\n", "line 2: the column file is empty"),
            ("file,kind,metres_per_value\na.npy,metric,lots\n", "line 2.*lots"),
            ("file,kind,metres_per_value\na.npy,metric,1/0\n", "line 2"),
            ("file,invalid\na.npy,none\n", "line 2.*none"),
            ("name\na.npy\n", "column named file"),
            ("file\n", "the list is empty"),
            ("", "column named file"),
            ('file\n"a.npy\n', "a.npy|list"),
            ("file\n" + "a" * 200_000 + "\n", "can be read|list.csv"),
        ],
    )
    def test_no_traceback_for_any_list(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "list.csv").write_text(text)
        try:
            found = find_maps([tmp_path / "list.csv"], ReadOptions(kind="metric", unit="m"))
            found[0].read()
        except DepthMapError as error:
            import re

            assert re.search(message, str(error))  # noqa: PT017 - either door may refuse
        else:
            pytest.fail("nothing was refused")

    def test_pair_lists_of_ait(self, tmp_path: Path) -> None:
        put(tmp_path / "nyu" / "depth_00.npy")
        put(tmp_path / "with space.npy")
        lines = ["/nyu/rgb_00.jpg /nyu/depth_00.npy 518.8579", "with space.npy"]
        (tmp_path / "list.txt").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
        assert names(tmp_path / "list.txt") == ["nyu/depth_00.npy", "with space.npy"]


class TestMasks:
    def test_a_folder_of_masks_named_as_the_maps(self, tmp_path: Path) -> None:
        put(tmp_path / "maps" / "s" / "a.npy")
        (tmp_path / "masks" / "s").mkdir(parents=True)
        Image.fromarray(np.eye(3, 4) > 0).save(tmp_path / "masks" / "s" / "a.png")
        (file,) = find_maps([tmp_path / "maps"], ReadOptions(kind="metric", unit="m", mask=tmp_path / "masks"))
        assert np.array_equal(file.read().valid, np.eye(3, 4) > 0)
        (tmp_path / "masks" / "s" / "a.png").unlink()
        with pytest.raises(DepthMapError, match="no mask of this name"):
            file.read()

    def test_a_mask_of_another_size(self, tmp_path: Path) -> None:
        put(tmp_path / "a.npy")
        Image.fromarray(np.ones((5, 5), np.uint8)).save(tmp_path / "m.png")
        (file,) = find_maps([tmp_path / "a.npy"], ReadOptions(kind="metric", unit="m", mask=tmp_path / "m.png"))
        with pytest.raises(DepthMapError, match=r"is \(3, 4\), but its mask .* is \(5, 5\)"):
            file.read()


@pytest.mark.parametrize(
    "rows",
    [
        "file,kind,unit\na\0.npy,metric,m\n",
        "file,kind,metres_per_value\na.npy,metric,1e999\n",
        "file,kind,metres_per_value\na.npy,metric,1/0\n",
        f"file,kind,unit,mask\na.npy,metric,m,{'x' * 300}\n",
        f"file,kind,unit\n{'x' * 300}.npy,metric,m\n",
    ],
    ids=["NUL", "1e999", "1/0", "long mask", "long name"],
)
def test_strange_cells_are_errors_of_ours(tmp_path: Path, rows: str) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 4), np.float32))
    (tmp_path / "list.csv").write_text(rows)
    with pytest.raises(DepthMapError):
        [file.read() for file in find_maps([tmp_path / "list.csv"])]


@pytest.mark.parametrize("named", ["x" * 300, "a\0b", "nowhere.npy"], ids=["long", "NUL", "missing"])
def test_names_of_nothing(named: str) -> None:
    with pytest.raises(DepthMapError, match="no such file"):
        find_maps([named], ReadOptions(kind="metric", unit="m"), frames=True)


def test_finding_maps(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    for index in range(9):
        put(folder / f"scene{index % 2}" / f"{index}.npy")
    assert [f.name for f in find_maps([folder / "scene0"])] == ["0.npy", "2.npy", "4.npy", "6.npy", "8.npy"]
    assert [f.name for f in find_maps([str(folder / "*" / "1.npy")])] == ["scene1/1.npy"]
    assert {f.source for f in find_maps([folder])} == {"scene0", "scene1"}
    (folder / "list.csv").write_text(
        "file,kind,metres_per_value,source\nscene0/0.npy,metric,0.001,kinect\nscene1/1.npy,metric,,lidar\n"
    )
    first, second = find_maps([folder / "list.csv"])
    assert (first.name, first.options.kind, first.options.scale, first.in_metres, first.source) == (
        "scene0/0.npy",
        "metric",
        0.001,
        True,
        "kinect",
    )
    assert (second.options.scale, second.in_metres) == (1.0, False)
    assert find_maps([folder / "list.csv"], sources=["lidar"]) == [second]
    (folder / "list.txt").write_text("scene0/0.npy\n\nscene1/1.npy\n")
    assert [f.name for f in find_maps([folder / "list.txt"], ReadOptions(kind="inverse"))] == [
        "scene0/0.npy",
        "scene1/1.npy",
    ]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "wrong.csv").write_text("path\nx\n")
    for named, message in {
        str(tmp_path / "empty"): "no depth maps in it",
        str(tmp_path / "none"): "no such file or folder",
        str(tmp_path / "*.exr"): "no file matches",
        str(tmp_path / "empty.txt"): "list is empty",
        str(tmp_path / "wrong.csv"): "column named file",
    }.items():
        with pytest.raises(DepthMapError, match=message):
            find_maps([named])
    (folder / "scene1" / "0.npy").write_bytes((folder / "scene0" / "0.npy").read_bytes())
    both = find_maps([folder / "scene0", folder / "scene1"])
    assert {"scene0/0.npy", "scene1/0.npy", "scene1/1.npy"} <= {file.name for file in both}
    with pytest.raises(DepthMapError, match=r"0\.npy is named 2 times"):
        find_maps([folder / "scene0", folder / "scene0" / "0.npy"])
    with pytest.raises(DepthMapError, match="no depth maps of the source sonar"):
        find_maps([folder / "list.csv"], sources=["sonar"])


def test_lists_of_absolute_paths_are_mirrored_from_their_common_parent(tmp_path: Path) -> None:
    for name in ("data/a/0.npy", "data/b/0.npy", "lists/near.npy"):
        put(tmp_path / name)
    lines = [str(tmp_path / "data" / "a" / "0.npy"), str(tmp_path / "data" / "b" / "0.npy"), "near.npy"]
    (tmp_path / "lists" / "list.txt").write_text("\n".join(lines))
    (tmp_path / "lists" / "list.csv").write_text("\n".join(["file", *lines]))
    for named in ("list.txt", "list.csv"):
        assert names(tmp_path / "lists" / named) == ["a/0.npy", "b/0.npy", "near.npy"]
    assert names(*(Path(line) for line in lines[:2])) == ["a/0.npy", "b/0.npy"]
    (tmp_path / "lists" / "list.txt").write_text("../data/a/0.npy\n../data/b/0.npy\nnear.npy")
    assert names(tmp_path / "lists" / "list.txt") == ["a/0.npy", "b/0.npy", "near.npy"]
    (tmp_path / "lists" / "list.txt").write_text("../data/a/0.npy")
    assert names(tmp_path / "lists" / "list.txt") == ["0.npy"]


def test_lists_of_names_that_are_not_utf_8(tmp_path: Path) -> None:
    put(tmp_path / "ü.npy")
    raw = os.fsencode(tmp_path) + b"/caf\xe9.npy"
    shutil.copy(tmp_path / "ü.npy", raw)
    for suffix, head in ((".txt", b""), (".csv", b"file\n")):
        (tmp_path / f"list{suffix}").write_bytes(head + raw + b"\n\xfc.npy\n")
        files = find_maps([tmp_path / f"list{suffix}"])
        assert [file.name for file in files] == ["caf%E9.npy", "ü.npy"]
        assert all(file.path.is_file() for file in files)


def test_masks_beside_maps(tmp_path: Path) -> None:
    """DIODE's: named by a pattern, or a warning that they are not used."""
    put(tmp_path / "sub" / "x_depth.npy")
    mask = np.ones((3, 4))
    mask[0, 0] = 0
    np.save(tmp_path / "sub" / "x_depth_mask.npy", mask)
    (file,) = find_maps([tmp_path], ReadOptions("metric", "m"))
    (warning,) = file.read().warnings
    assert "x_depth_mask.npy, is not used" in warning
    assert "--mask '*_mask.npy'" in warning
    assert file.read_nearness().find_warnings() == [warning]
    (tmp_path / "masks" / "sub").mkdir(parents=True)
    np.save(tmp_path / "masks" / "sub" / "x_depth.m.npy", mask)
    for pattern in (Path("*_mask.npy"), tmp_path / "masks" / "*.m.npy"):
        (file,) = [
            file
            for file in find_maps([tmp_path], ReadOptions("metric", "m", mask=pattern))
            if file.path.name == "x_depth.npy"
        ]
        assert not file.read().valid[0, 0]
        assert file.read().valid.sum() == 11
        assert file.read().warnings == ()


def test_a_table_of_numbers_is_not_a_list(tmp_path: Path) -> None:
    (tmp_path / "depth.csv").write_text("1.5,2.5\n3,4\n")
    with pytest.raises(DepthMapError, match=r"a table of numbers, .*convert it: (python .*)$") as refused:
        find_maps([tmp_path / "depth.csv"])
    command = str(refused.value).partition("convert it: python ")[2]
    subprocess.run([sys.executable, *shlex.split(command)], check=True)
    assert np.load(tmp_path / "depth.npy").tolist() == [[1.5, 2.5], [3, 4]]


def test_file_names_that_are_not_utf_8(tmp_path: Path) -> None:
    put(tmp_path / "maps" / "a.npy")
    shutil.copy(tmp_path / "maps" / "a.npy", os.fsencode(tmp_path / "maps") + b"/100% caf\xe9.npy")
    files = find_maps([tmp_path / "maps"], ReadOptions(kind="metric", unit="m"))
    assert [file.name for file in files] == ["100%25 caf%E9.npy", "a.npy"]
    assert files[0].read().values.shape == (3, 4)
    assert unquote_to_bytes(files[0].name) == os.fsencode(files[0].path.name)


def test_files_of_other_formats_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "a.npy")
    for name in ("b.pgm", "c.gif", "d.PGM", "photo.jpg"):
        (tmp_path / name).touch()
    warnings: list[str] = []
    find_maps([tmp_path], warn=warnings.append)
    assert len(warnings) == 1
    assert "2 .pgm, 1 .gif;" in warnings[0]


@pytest.mark.parametrize("make", ["npz", "npy", "sparse", "pgm", "mat", "h5"])
def test_the_remedy_of_a_file_of_another_layout_works(tmp_path: Path, make: str) -> None:
    """The command of the message is run; what it writes can be read."""
    maps = np.arange(1.0, 31).reshape(2, 3, 5)
    path = tmp_path / f"it's a $(map).{make if make != 'sparse' else 'npz'}"
    if make == "npz":
        np.savez(path, depth=maps)
    elif make == "npy":
        np.save(path, maps)
    elif make == "pgm":
        Image.fromarray(np.arange(1, 16, dtype=np.uint16).reshape(3, 5)).save(path)
    elif make == "mat":
        scipy.io.savemat(path, {"depth": maps[0]})
    elif make == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["depth"] = maps[0]
    else:
        scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(maps[0]))
    with pytest.raises(DepthMapError, match="python -c") as refused:
        MapFile(path, path.name, options=ReadOptions("metric", "m")).read()
    words = shlex.split("python -c" + str(refused.value).partition("python -c")[2])[:5]
    words[-1] = words[-1].rstrip(";")
    # "python" is the user's own; here it is the interpreter that has the packages.
    subprocess.run([sys.executable, *words[1:]], check=True)
    written = find_maps([tmp_path], ReadOptions("metric", "m"))
    readable = [file.read().values for file in written if file.path != path]
    assert len(readable) == (2 if make in ("npz", "npy") else 1)
    np.testing.assert_array_equal(readable[0], maps[0])
