"""The one family of errors: every message says what came, what was expected, and what to do."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DepthMapError",
    "MalformedBlockError",
    "MissingExtraError",
    "OutputError",
    "PerceptokError",
    "TrainingError",
]


class PerceptokError(Exception):
    """Base of every error that perceptok raises on purpose."""


class ConfigError(PerceptokError, ValueError):
    """A configuration has an unknown key or a value out of range."""


class DepthMapError(PerceptokError, ValueError):
    """A depth map cannot be read, is ambiguous, or has nothing in it to encode."""


class MalformedBlockError(PerceptokError, ValueError):
    """A text or byte string is not a depth block, or codes do not form one."""


class CheckpointError(PerceptokError, ValueError):
    """Saved weights are damaged, unsafe, or of another shape than their configuration says."""


class TrainingError(PerceptokError, RuntimeError):
    """Training cannot start or go on: no data, overlapping splits, no room, a collapsed codebook."""


class OutputError(PerceptokError, OSError):
    """An output cannot be written, or exists already and may not be replaced."""


class MissingExtraError(PerceptokError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}; install it with `pip install 'perceptok[{extra}]'`")
