"""A depth map to 100 tokens and back, with the shipped weights."""

import numpy as np

import perceptok as pt

# A slope from 4 m at the top to 1 m at the bottom, with a box at 0.8 m.
metres = np.linspace(4.0, 1.0, 240)[:, None].repeat(320, axis=1)
metres[80:160, 200:280] = 0.8

depth = pt.DepthMap.from_array(metres, kind="metric", unit="m")
nearness = depth.to_nearness()

codec = pt.DepthCodec.from_pretrained()
codes = codec.encode(depth)
block = codec.to_text(codes[0])
print(block[:60], "...", block[-26:])

decoded = codec.decode(codec.from_text(block)[None])[0]
rows = (np.arange(320) * 240) // 320
error = decoded - nearness.values[rows]
print(f"codes {codes.shape}, decoded {decoded.shape}, RMSE in nearness {np.sqrt(np.mean(error**2)):.3f}")
