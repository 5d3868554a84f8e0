from .building import (
    BuildReport as BuildReport,
    build_data as build_data,
)
from .depth_folders import DepthFolder as DepthFolder
from .estimation import estimate_maps as estimate_maps
from .image_selection import (
    ImageSelection as ImageSelection,
    select_images as select_images,
)
from .markers import (
    MarkerProtocol as MarkerProtocol,
    place_markers as place_markers,
)
from .plurals import Plurals as Plurals
from .prompts import (
    PROMPTS as PROMPTS,
    PromptSet as PromptSet,
)
from .recipes import (
    DataRecipe as DataRecipe,
    SpecialistConfig as SpecialistConfig,
    make_depth_specialist as make_depth_specialist,
)
from .record_files import (
    check_records as check_records,
    compute_statistics as compute_statistics,
    find_records_file as find_records_file,
    read_records as read_records,
    write_records as write_records,
)
from .record_pages import write_records_page as write_records_page
from .records import (
    Evidence as Evidence,
    Marker as Marker,
    PerceptionRecord as PerceptionRecord,
    Regime as Regime,
    Task as Task,
    TokenReading as TokenReading,
    Turn as Turn,
    format_conversation as format_conversation,
)
from .rendering import (
    LLAVA_SYSTEM as LLAVA_SYSTEM,
    check_known_tokens as check_known_tokens,
    make_messages as make_messages,
    render_messages as render_messages,
    render_record as render_record,
)
from .soft_codes import (
    SoftCodes as SoftCodes,
    code_spread as code_spread,
)
from .sources import (
    FolderSource as FolderSource,
    ProceduralSource as ProceduralSource,
)
from .specialists.onnx_models import OnnxDepth as OnnxDepth
from .supervision import find_supervision_problems as find_supervision_problems
