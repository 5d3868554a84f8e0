from .framing import FrameRule as FrameRule
from .inference.answer import (
    PerceptionAnswer as PerceptionAnswer,
)
from .inference.answer import (
    read_served as read_served,
)
from .inference.batch import (
    FileQuestion as FileQuestion,
)
from .inference.batch import (
    Outputs as Outputs,
)
from .inference.batch import (
    QuestionFailure as QuestionFailure,
)
from .inference.batch import (
    answer_files as answer_files,
)
from .inference.batch import (
    answers_with_pictures as answers_with_pictures,
)
from .inference.batch import (
    find_questions as find_questions,
)
from .inference.batch import (
    write_answer_page as write_answer_page,
)
from .inference.config import InferenceConfig as InferenceConfig
from .inference.pipeline import (
    PerceptionPipeline as PerceptionPipeline,
)
from .inference.pipeline import (
    Request as Request,
)
from .loading import load_llava as load_llava
from .original import import_original as import_original
from .saving import (
    export_adapter as export_adapter,
)
from .saving import (
    load_adapter as load_adapter,
)
from .saving import (
    merge_adapter as merge_adapter,
)
from .saving import (
    save_adapter as save_adapter,
)
from .small.demo import (
    DemoConfig as DemoConfig,
)
from .small.demo import (
    run_demo as run_demo,
)
from .small.demo import (
    scored as scored,
)
from .small.demo import (
    starting_model as starting_model,
)
from .small.demo import (
    write_demo_page as write_demo_page,
)
from .small.learning import (
    SmallTraining as SmallTraining,
)
from .small.learning import (
    answer_depth as answer_depth,
)
from .small.learning import (
    map_error as map_error,
)
from .small.learning import (
    optimise as optimise,
)
from .small.learning import (
    point_order as point_order,
)
from .small.learning import (
    train_depth as train_depth,
)
from .small.model import (
    ANSWER as ANSWER,
)
from .small.model import (
    GRID as GRID,
)
from .small.model import (
    QUESTION as QUESTION,
)
from .small.model import (
    GridTower as GridTower,
)
from .small.model import (
    prompt_ids as prompt_ids,
)
from .small.views import (
    Views as Views,
)
from .small.views import (
    YardView as YardView,
)
from .small.views import (
    normalised as normalised,
)
from .small.views import (
    view_yard as view_yard,
)
from .training.config import (
    FinetuneConfig as FinetuneConfig,
)
from .training.config import (
    explain as explain,
)
from .training.finetuning import (
    dry_run as dry_run,
)
from .training.finetuning import (
    finetune as finetune,
)
