from .blocks import (
    block_from_text as block_from_text,
)
from .blocks import (
    block_to_text as block_to_text,
)
from .blocks import (
    salvage_blocks as salvage_blocks,
)
from .clips import (
    ClipSettings as ClipSettings,
)
from .clips import (
    clip_records as clip_records,
)
from .clips import (
    encode_clips as encode_clips,
)
from .code_files import (
    DepthRecord as DepthRecord,
)
from .code_files import (
    MapFailure as MapFailure,
)
from .code_files import (
    read_code_records as read_code_records,
)
from .code_files import (
    read_record_lines as read_record_lines,
)
from .codec import (
    DepthCodec as DepthCodec,
)
from .codec import (
    load_aurora_checkpoint as load_aurora_checkpoint,
)
from .folders import (
    decode_records as decode_records,
)
from .folders import (
    encode_files as encode_files,
)
from .folders import (
    encode_maps as encode_maps,
)
from .folders import (
    ray_encoder as ray_encoder,
)
from .formats.registry import FORMATS as FORMATS
from .formats.stored import Kind as Kind
from .map_files import (
    MapFile as MapFile,
)
from .map_files import (
    MapFiles as MapFiles,
)
from .map_files import (
    find_maps as find_maps,
)
from .maps import (
    DepthMap as DepthMap,
)
from .maps import (
    Nearness as Nearness,
)
from .maps import (
    NearnessRange as NearnessRange,
)
from .metrics import (
    DepthScore as DepthScore,
)
from .metrics import (
    closest_marker_hits as closest_marker_hits,
)
from .metrics import (
    evaluate_depth_codec as evaluate_depth_codec,
)
from .networks.aurora import AuroraConfig as AuroraConfig
from .networks.grid import GridConfig as GridConfig
from .networks.vqvae import (
    DepthVQVAE as DepthVQVAE,
)
from .networks.vqvae import (
    model_config_to_dict as model_config_to_dict,
)
from .plots import (
    depth_case as depth_case,
)
from .plots import (
    draw_blocks as draw_blocks,
)
from .plots import (
    draw_panel as draw_panel,
)
from .plots import (
    panel_row as panel_row,
)
from .preprocessing import (
    MAP_SIZE as MAP_SIZE,
)
from .preprocessing import (
    Depth as Depth,
)
from .preprocessing import (
    Preprocessing as Preprocessing,
)
from .preprocessing import (
    nearest_resize as nearest_resize,
)
from .sequences import (
    SequenceFrame as SequenceFrame,
)
from .sequences import (
    clip_range as clip_range,
)
from .training.codec_trainer import (
    EpochReport as EpochReport,
)
from .training.codec_trainer import (
    TrainingConfig as TrainingConfig,
)
from .training.codec_trainer import (
    train_depth_codec as train_depth_codec,
)
from .training.map_bank import (
    MapBank as MapBank,
)
from .training.map_bank import (
    MapSource as MapSource,
)
from .units import Unit as Unit
