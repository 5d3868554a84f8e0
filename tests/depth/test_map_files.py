"""What folders and lists hold: links, hidden files, masks, and tables as spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptok.depth import ReadOptions, find_maps
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
    with pytest.raises(DepthMapError, match=r"both be called 0\.npy"):
        find_maps([folder / "scene0", folder / "scene1"])
    with pytest.raises(DepthMapError, match="no depth maps of the source sonar"):
        find_maps([folder / "list.csv"], sources=["sonar"])
