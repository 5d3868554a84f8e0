"""Training and test records: one typed sample, and the files that hold many of them."""

from perceptok.data.records.files import Form, check_records, read_records, write_records
from perceptok.data.records.llava import record_from_llava
from perceptok.data.records.record import (
    JSON,
    Evidence,
    Marker,
    PerceptionRecord,
    Regime,
    Task,
    Turn,
)
from perceptok.data.records.soft import SoftCodes

__all__ = [
    "JSON",
    "Evidence",
    "Form",
    "Marker",
    "PerceptionRecord",
    "Regime",
    "SoftCodes",
    "Task",
    "Turn",
    "check_records",
    "read_records",
    "record_from_llava",
    "write_records",
]
