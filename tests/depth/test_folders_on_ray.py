"""Folders through codecs on Ray: byte for byte the records of one process, going on where that stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perceptok.depth import DepthCodec, MapFile, ReadOptions, encode_files, find_maps
from perceptok.jobs import RayEngine

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def maps(tmp_path: Path) -> list[MapFile]:
    folder = tmp_path / "maps"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(11):
        np.save(folder / f"{index:02}.npy", rng.uniform(1, 5, (12 + index, 16)).astype(np.float32))
    (folder / "04.npy").write_bytes(b"\x93NUMPY broken")
    return find_maps([folder], ReadOptions(kind="metric", unit="m"))


class StopError(Exception):
    pass


def test_a_run_that_one_process_began_gives_the_same_records(
    codec: DepthCodec, maps: list[MapFile], tmp_path: Path
) -> None:
    local, spread = tmp_path / "local.parquet", tmp_path / "ray.parquet"
    failures = encode_files(codec, maps, local, batch_size=3)
    done = 0

    def stop() -> None:
        nonlocal done
        done += 1
        if done == 5:
            raise StopError

    with pytest.raises(StopError):
        encode_files(codec, maps, spread, batch_size=3, advance=stop)
    seen: list[MapFile] = []

    class Recorder(RayEngine):
        def map(self, work, items):  # type: ignore[no-untyped-def]
            batches = list(items)
            seen.extend(file for batch in batches for file in batch)
            return super().map(work, batches)

    assert encode_files(codec, maps, spread, batch_size=3, engine=Recorder(2)) == failures
    assert [file.name for file in seen] == [file.name for file in maps[5:]]
    assert [failure.name for failure in failures] == ["04.npy"]
    assert spread.read_bytes() == local.read_bytes()
