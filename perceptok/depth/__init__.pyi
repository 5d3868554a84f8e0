from .blocks import (
    block_from_text as block_from_text,
    block_to_text as block_to_text,
    salvage_blocks as salvage_blocks,
)
from .codec import (
    DepthCodec as DepthCodec,
    load_aurora_checkpoint as load_aurora_checkpoint,
)
from .depth_records import (
    DepthRecord as DepthRecord,
    MapFailure as MapFailure,
    parse_depth_records as parse_depth_records,
    read_depth_records as read_depth_records,
    restore_frames as restore_frames,
    write_depth_records as write_depth_records,
)
from .folders import (
    ClipSettings as ClipSettings,
    decode_records as decode_records,
    encode_files as encode_files,
    encode_maps as encode_maps,
)
from .formats.registry import FORMATS as FORMATS
from .formats.stored import Kind as Kind
from .map_files import (
    MapFile as MapFile,
    MapFiles as MapFiles,
    ReadOptions as ReadOptions,
    find_maps as find_maps,
)
from .maps import (
    DepthMap as DepthMap,
    Nearness as Nearness,
    NearnessRange as NearnessRange,
)
from .metrics import (
    DepthScore as DepthScore,
    closest_marker_hits as closest_marker_hits,
    evaluate_depth_codec as evaluate_depth_codec,
)
from .networks.aurora import AuroraConfig as AuroraConfig
from .networks.grid import GridConfig as GridConfig
from .networks.vqvae import (
    DepthVQVAE as DepthVQVAE,
    model_config_to_dict as model_config_to_dict,
)
from .plots import (
    depth_case as depth_case,
    draw_blocks as draw_blocks,
    draw_files as draw_files,
    draw_panel as draw_panel,
    panel_row as panel_row,
)
from .preprocessing import (
    MAP_SIZE as MAP_SIZE,
    Depth as Depth,
    Preprocessing as Preprocessing,
    nearest_resize as nearest_resize,
)
from .sequences import (
    SequenceFrame as SequenceFrame,
    clip_range as clip_range,
)
from .training.codec_trainer import (
    EpochReport as EpochReport,
    TrainingConfig as TrainingConfig,
    train_depth_codec as train_depth_codec,
)
from .training.map_bank import (
    MapBank as MapBank,
    MapSource as MapSource,
)
from .units import Unit as Unit
