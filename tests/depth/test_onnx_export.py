"""A codec in ONNX files gives the codes and maps of the codec, without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perceptok.depth import DepthCodec, Preprocessing, export_onnx
from perceptok.errors import ConfigError, OutputError
from perceptok.scenes import ProceduralDepthMaps

pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(codec: DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(codec, tmp_path_factory.mktemp("export") / "onnx")


def test_codes_and_maps(codec: DepthCodec, exported: Path) -> None:
    encoder, decoder = (
        onnxruntime.InferenceSession(str(exported / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("encoder", "decoder")
    )
    maps = np.stack([nearness for nearness, _ in ProceduralDepthMaps(seed=3, length=5)]).astype(np.float32)
    expected = codec.encode(maps)
    for size in (1, 2, 5):
        codes = np.concatenate(
            [encoder.run(["codes"], {"nearness": maps[start : start + size]})[0] for start in range(0, 5, size)]
        )
        assert codes.dtype == np.int64
        assert (codes == expected).mean() >= 0.999
    (distances,) = encoder.run(["distances"], {"nearness": maps})
    assert distances.shape == (5, 10, 10, 128)
    (nearness,) = decoder.run(None, {"codes": expected})
    np.testing.assert_allclose(nearness, codec.decode(expected), atol=1e-5)
    assert json.loads((exported / "codec.json").read_text()) == {
        "codec": codec.fingerprint,
        "preprocessing": codec.preprocessing.to_dict(),
    }


def test_refusals(codec: DepthCodec, exported: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        export_onnx(codec, exported)
    other = DepthCodec(codec.model, Preprocessing.from_name("molmoact"))
    with pytest.raises(ConfigError, match="pillow-bilinear"):
        export_onnx(other, exported.parent / "other")
    assert not (exported.parent / "other").exists()
