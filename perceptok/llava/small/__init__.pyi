from .demo import (
    DemoConfig as DemoConfig,
    run_demo as run_demo,
    scored as scored,
    starting_model as starting_model,
    write_demo_page as write_demo_page,
)
from .learning import (
    SmallTraining as SmallTraining,
    answer_depth as answer_depth,
    map_error as map_error,
    optimise as optimise,
    point_order as point_order,
    train_depth as train_depth,
)
from .model import (
    ANSWER as ANSWER,
    QUESTION as QUESTION,
    prompt_ids as prompt_ids,
)
from .views import (
    Views as Views,
    YardView as YardView,
    normalised as normalised,
    view_yard as view_yard,
)
