from . import small as small
from .conversion import (
    CheckpointFormat as CheckpointFormat,
    convert_checkpoint as convert_checkpoint,
)
from .framing import FrameRule as FrameRule
from .grid_tower import (
    GridTower as GridTower,
    GridTowerConfig as GridTowerConfig,
)
from .inference.answer import (
    PerceptionAnswer as PerceptionAnswer,
    read_served_answer as read_served_answer,
)
from .inference.batch import (
    FileQuestion as FileQuestion,
    OutputFolders as OutputFolders,
    QuestionFailure as QuestionFailure,
    answer_files as answer_files,
    answer_questions as answer_questions,
    find_questions as find_questions,
    write_answer_page as write_answer_page,
)
from .inference.pipeline import (
    InferenceConfig as InferenceConfig,
    PerceptionPipeline as PerceptionPipeline,
)
from .inference.questions import (
    Ask as Ask,
    Request as Request,
    build_question as build_question,
)
from .loading import load_llava as load_llava
from .original import import_original as import_original
from .saving import (
    LoadedAdapter as LoadedAdapter,
    export_adapter as export_adapter,
    load_adapter as load_adapter,
    merge_adapter as merge_adapter,
    push_to_hub as push_to_hub,
    save_adapter as save_adapter,
)
from .serving.app import create_app as create_app
from .serving.client import ServedPipeline as ServedPipeline
from .serving.server import serve as serve
from .serving.settings import ServingConfig as ServingConfig
from .training.config import (
    ConfigSetting as ConfigSetting,
    CurriculumSettings as CurriculumSettings,
    FinetuneConfig as FinetuneConfig,
    LoraSettings as LoraSettings,
    MonitoringSettings as MonitoringSettings,
    ObjectiveSettings as ObjectiveSettings,
    explain as explain,
)
from .training.finetuning import (
    DryRun as DryRun,
    FinetuneResult as FinetuneResult,
    dry_run as dry_run,
    finetune as finetune,
)
from .training.sampling import count_samples as count_samples
