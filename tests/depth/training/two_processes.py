"""One of the processes that test_codec_trainer starts: trains its part and writes its codebook."""

import json
import sys
from pathlib import Path

from torch import distributed

from perceptok.depth import MapDataset, train_depth_codec
from perceptok.scenes import ProceduralDepthMaps
from tests.depth.training.test_codec_trainer import SMALL

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    train_set = MapDataset.build({"procedural": ProceduralDepthMaps(seed=0, length=8, size=64)})
    val_set = MapDataset.build({"procedural": ProceduralDepthMaps(seed=1, length=3, size=64)})
    codec = train_depth_codec(SMALL, train_set, val_set, output=folder / "run", cpu=True)
    (folder / f"rank{distributed.get_rank()}.json").write_text(json.dumps({"codebook": codec.codebook.tolist()}))
    distributed.barrier()  # a group that ends while the other works in it takes the process down
    distributed.destroy_process_group()
