"""Shares of the tasks over training: three curricula side by side, drawn to curriculum.png (or a given path)."""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perceptok.losses import LinearSchedule, TemperatureSchedule

DIFFICULTIES = {"atomic": 0.0, "cot": 1.0, "direct": 1.5}
NAMES = {"atomic": "atomic: perception tokens alone", "cot": "chain of thought", "direct": "direct answers"}
COLORS = {"atomic": (37, 99, 171), "cot": (236, 151, 61), "direct": (120, 120, 120)}
CURRICULA = {
    "tau falls (lam = 19): easiest last": TemperatureSchedule(DIFFICULTIES, tau0=4.0, lam=19.0),
    "tau rises (lam = -0.95), the default": TemperatureSchedule(DIFFICULTIES),
    "released data, ten passes": LinearSchedule(),
}
WIDTH, HEIGHT, LEFT, TOP, GAP = 250, 150, 46, 34, 24
STEPS = WIDTH


def draw_shares(draw, schedule, left, title, font):
    """Draw a panel: the stacked shares of the tasks, step by step from left to right."""
    order = [schedule.tasks.index(task) for task in DIFFICULTIES]
    for step in range(STEPS):
        edges = np.cumsum([0.0, *schedule.probabilities(step, STEPS)[order]])
        rows = TOP + HEIGHT - np.round(HEIGHT * edges).astype(int)
        for task, low, high in zip(DIFFICULTIES, rows[:-1], rows[1:], strict=True):
            if high < low:
                draw.line([(left + step, high), (left + step, low - 1)], fill=COLORS[task])
    draw.rectangle([left - 1, TOP - 1, left + WIDTH, TOP + HEIGHT], outline=(60, 60, 60))
    draw.text((left, TOP - 20), title, fill="black", font=font)
    draw.text((left, TOP + HEIGHT + 4), "first step", fill="black", font=font)
    draw.text((left + WIDTH, TOP + HEIGHT + 4), "last step", fill="black", font=font, anchor="ra")


font = ImageFont.load_default(13)
image = Image.new("RGB", (LEFT + len(CURRICULA) * (WIDTH + GAP), TOP + HEIGHT + 52), "white")
draw = ImageDraw.Draw(image)
for share in (0, 50, 100):
    draw.text((LEFT - 6, TOP + HEIGHT - HEIGHT * share // 100), f"{share} %", fill="black", font=font, anchor="rm")
for number, (title, schedule) in enumerate(CURRICULA.items()):
    draw_shares(draw, schedule, LEFT + number * (WIDTH + GAP), title, font)
    start, end = (schedule.probabilities(step, STEPS) for step in (0, STEPS))
    atomic = schedule.tasks.index("atomic")
    print(f"{title}: atomic {start[atomic]:.1%} at the first step, {end[atomic]:.1%} at the last")
left = LEFT
for task, name in NAMES.items():
    draw.rectangle([left, TOP + HEIGHT + 30, left + 12, TOP + HEIGHT + 42], fill=COLORS[task])
    draw.text((left + 18, TOP + HEIGHT + 28), name, fill="black", font=font)
    left += 34 + int(draw.textlength(name, font=font))
path = sys.argv[1] if len(sys.argv) > 1 else "curriculum.png"
image.quantize(64).save(path, optimize=True)
print(f"drawn in {path}")
