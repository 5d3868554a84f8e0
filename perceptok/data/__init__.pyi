from .building import build_data as build_data
from .markers import (
    MarkerProtocol as MarkerProtocol,
)
from .markers import (
    place_markers as place_markers,
)
from .recipes import DataRecipe as DataRecipe
from .record_files import (
    check_records as check_records,
)
from .record_files import (
    read_records as read_records,
)
from .record_files import (
    record_statistics as record_statistics,
)
from .record_files import (
    write_records as write_records,
)
from .records import (
    Evidence as Evidence,
)
from .records import (
    Marker as Marker,
)
from .records import (
    PerceptionRecord as PerceptionRecord,
)
from .records import (
    Turn as Turn,
)
from .rendering import render_record as render_record
from .soft_codes import (
    SoftCodes as SoftCodes,
)
from .soft_codes import (
    code_spread as code_spread,
)
from .sources import ProceduralSource as ProceduralSource
from .specialists.onnx_models import OnnxDepth as OnnxDepth
from .tasks import Plurals as Plurals
