from .framing import FrameRule as FrameRule
from .inference.answer import (
    PerceptionAnswer as PerceptionAnswer,
    read_served as read_served,
)
from .inference.batch import (
    FileQuestion as FileQuestion,
    Outputs as Outputs,
    QuestionFailure as QuestionFailure,
    answer_files as answer_files,
    answers_with_pictures as answers_with_pictures,
    find_questions as find_questions,
    write_answer_page as write_answer_page,
)
from .inference.config import InferenceConfig as InferenceConfig
from .inference.pipeline import (
    PerceptionPipeline as PerceptionPipeline,
    Request as Request,
)
from .loading import load_llava as load_llava
from .original import import_original as import_original
from .saving import (
    export_adapter as export_adapter,
    load_adapter as load_adapter,
    merge_adapter as merge_adapter,
    save_adapter as save_adapter,
)
from .small.demo import (
    DemoConfig as DemoConfig,
    run_demo as run_demo,
    scored as scored,
    starting_model as starting_model,
    write_demo_page as write_demo_page,
)
from .small.learning import (
    SmallTraining as SmallTraining,
    answer_depth as answer_depth,
    map_error as map_error,
    optimise as optimise,
    point_order as point_order,
    train_depth as train_depth,
)
from .small.model import (
    ANSWER as ANSWER,
    GRID as GRID,
    QUESTION as QUESTION,
    GridTower as GridTower,
    prompt_ids as prompt_ids,
)
from .small.views import (
    Views as Views,
    YardView as YardView,
    normalised as normalised,
    view_yard as view_yard,
)
from .training.config import (
    CurriculumSettings as CurriculumSettings,
    FinetuneConfig as FinetuneConfig,
    LoraSettings as LoraSettings,
    MonitoringSettings as MonitoringSettings,
    ObjectiveSettings as ObjectiveSettings,
    explain as explain,
    parse_overrides as parse_overrides,
)
from .training.finetuning import (
    DryRun as DryRun,
    FinetuneResult as FinetuneResult,
    dry_run as dry_run,
    finetune as finetune,
)
