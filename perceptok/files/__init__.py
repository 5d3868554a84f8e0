"""Files in and out: outputs whole or not at all, one writer at a time, inside their folder; JSON read safely."""

from perceptok.files.locks import locked
from perceptok.files.names import distinct_targets, inside
from perceptok.files.parsing import json_number, parse_json
from perceptok.files.writing import atomic_folder, atomic_write, whole_folder

__all__ = [
    "atomic_folder",
    "atomic_write",
    "distinct_targets",
    "inside",
    "json_number",
    "locked",
    "parse_json",
    "whole_folder",
]
