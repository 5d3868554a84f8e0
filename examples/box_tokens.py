"""Boxes of a photo to coordinate codes and back, in the model's frame."""

import numpy as np

from perceptok.boxes import BoxCodec, ImageFrame, score_boxes

size = (640, 480)
boxes = np.array([[12.5, 30.0, 210.0, 460.0], [300.2, 100.7, 420.9, 330.3], [560.0, 20.0, 640.0, 90.0]])

for decode in ("corner", "center"):
    codec = BoxCodec(decode=decode)  # AURORA: 336 bins a side, squashed
    codes = codec.encode(boxes, image_size=size)
    back = codec.decode(codes, image_size=size)
    print(f"{decode}: {codes.tolist()}, mean IoU {score_boxes(back, boxes).mean_iou:.4f}")

# LLaVA-1.5's own image processor crops: hidden boxes are dropped, and the indices of the others returned.
frame = ImageFrame.center_crop(size)
print("visible:", frame.visible_fraction(boxes).round(2).tolist())
codes, indices = BoxCodec(outside="drop").encode_with_indices(boxes, frame=frame, min_visible=0.5)
print("visible boxes:", indices.tolist(), codes.tolist())

# The middle of a box in a decoded 320x320 depth map, and among its 10x10 codes.
middle = frame.to_frame((boxes[1, :2] + boxes[1, 2:]) / 2)
print("pixel:", [int(i) for i in frame.to_depth_map(middle)], "cell:", [int(i) for i in frame.to_grid_cell(middle)])
