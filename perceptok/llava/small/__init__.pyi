from .demonstration import (
    STAGES as STAGES,
    DemoConfig as DemoConfig,
    prepare_model as prepare_model,
    run_demo as run_demo,
    score_answers as score_answers,
    write_demo_page as write_demo_page,
)
from .model import (
    ANSWER as ANSWER,
    QUESTION as QUESTION,
    SmallLlavaConfig as SmallLlavaConfig,
    assemble_small_llava as assemble_small_llava,
    load_small_language_model as load_small_language_model,
    load_small_tokenizer as load_small_tokenizer,
    make_prompt_ids as make_prompt_ids,
)
from .training import (
    SmallDataset as SmallDataset,
    SmallTraining as SmallTraining,
    YardImage as YardImage,
    answer_depth as answer_depth,
    compute_rmse as compute_rmse,
    finds_nearest as finds_nearest,
    normalize_images as normalize_images,
    optimize as optimize,
    render_yard as render_yard,
    train_depth as train_depth,
)
