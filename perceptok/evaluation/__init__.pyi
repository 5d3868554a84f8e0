from .ablation import (
    ABLATION_HEADER as ABLATION_HEADER,
    AblationRecipe as AblationRecipe,
    ablation_rows as ablation_rows,
    run_ablation as run_ablation,
    shipped_cells as shipped_cells,
    write_ablation as write_ablation,
)
from .asking import (
    answer_benchmark as answer_benchmark,
    model_stamp as model_stamp,
)
from .benchmarks import (
    Benchmark as Benchmark,
    load_benchmark as load_benchmark,
)
from .evidence import (
    EvidenceReport as EvidenceReport,
    check_evidence as check_evidence,
)
from .lmms_eval.tasks import (
    tasks_folder as tasks_folder,
    write_task as write_task,
)
from .replacement import (
    REPLACEMENT_HEADER as REPLACEMENT_HEADER,
    replacement_rows as replacement_rows,
    replacement_test as replacement_test,
    write_replacement as write_replacement,
)
from .scoring import (
    HEADER as HEADER,
    PUBLISHED_NOTE as PUBLISHED_NOTE,
    Outcome as Outcome,
    Scores as Scores,
    compare as compare,
    compared as compared,
    evaluate as evaluate,
    read_predictions as read_predictions,
    rows_of as rows_of,
    to_csv as to_csv,
    to_json as to_json,
    to_markdown as to_markdown,
    write_report as write_report,
)
from .specialists import (
    answer_of as answer_of,
    estimate_case as estimate_case,
    specialist_estimates as specialist_estimates,
)
