from .blocks import (
    RecoveredBlock as RecoveredBlock,
    block_from_text as block_from_text,
    block_to_text as block_to_text,
    recover_blocks as recover_blocks,
)
from .codec import (
    DepthCodec as DepthCodec,
    load_aurora_checkpoint as load_aurora_checkpoint,
)
from .depth_records import (
    DepthRecord as DepthRecord,
    drop_unchanged_codes as drop_unchanged_codes,
    parse_depth_records as parse_depth_records,
    read_depth_records as read_depth_records,
    restore_frames as restore_frames,
    write_depth_records as write_depth_records,
)
from .folders import (
    decode_records as decode_records,
    encode_files as encode_files,
    encode_maps as encode_maps,
)
from .formats.registry import FORMATS as FORMATS
from .map_files import (
    MapFailure as MapFailure,
    MapFile as MapFile,
    MapFiles as MapFiles,
    ReadOptions as ReadOptions,
    find_maps as find_maps,
)
from .maps import (
    DepthMap as DepthMap,
    Nearness as Nearness,
    NearnessRange as NearnessRange,
    RangeOutliers as RangeOutliers,
)
from .metrics import (
    DepthReport as DepthReport,
    DepthScore as DepthScore,
    evaluate_depth_codec as evaluate_depth_codec,
)
from .networks.aurora import AuroraConfig as AuroraConfig
from .networks.grid import GridConfig as GridConfig
from .networks.quantizer import QuantizerConfig as QuantizerConfig
from .networks.vqvae import (
    DepthVQVAE as DepthVQVAE,
    model_config_to_dict as model_config_to_dict,
)
from .onnx_export import export_onnx as export_onnx
from .plots import (
    PanelRow as PanelRow,
    draw_blocks as draw_blocks,
    draw_files as draw_files,
    draw_panel as draw_panel,
    make_panel_row as make_panel_row,
)
from .preprocessing import (
    MAP_SIZE as MAP_SIZE,
    Depth as Depth,
    Preprocessing as Preprocessing,
    resize_nearest as resize_nearest,
)
from .probe import (
    ProbeConfig as ProbeConfig,
    ProbeScore as ProbeScore,
    count_probe_steps as count_probe_steps,
    probe_depth_codecs as probe_depth_codecs,
)
from .sequences import (
    ClipSettings as ClipSettings,
    SequenceFrame as SequenceFrame,
    compute_clip_range as compute_clip_range,
    encode_sequence as encode_sequence,
)
from .stored_maps import Kind as Kind, Unit as Unit
from .training.codec_trainer import (
    CollapseWarning as CollapseWarning,
    TrainingConfig as TrainingConfig,
    TrainingReport as TrainingReport,
    train_depth_codec as train_depth_codec,
)
from .training.map_dataset import (
    AugmentationConfig as AugmentationConfig,
    MapDataset as MapDataset,
    MapSource as MapSource,
)
from .transcoding import (
    TranscodedRecord as TranscodedRecord,
    TranscodingReport as TranscodingReport,
    transcode_records as transcode_records,
    transcode_to_file as transcode_to_file,
)
