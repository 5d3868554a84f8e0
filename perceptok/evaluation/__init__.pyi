from .ablation import (
    ABLATION_HEADER as ABLATION_HEADER,
)
from .ablation import (
    AblationRecipe as AblationRecipe,
)
from .ablation import (
    ablation_rows as ablation_rows,
)
from .ablation import (
    run_ablation as run_ablation,
)
from .ablation import (
    shipped_cells as shipped_cells,
)
from .ablation import (
    write_ablation as write_ablation,
)
from .asking import (
    answer_benchmark as answer_benchmark,
)
from .asking import (
    model_stamp as model_stamp,
)
from .benchmarks import (
    Benchmark as Benchmark,
)
from .benchmarks import (
    load_benchmark as load_benchmark,
)
from .evidence import (
    EvidenceReport as EvidenceReport,
)
from .evidence import (
    check_evidence as check_evidence,
)
from .lmms_eval.tasks import (
    tasks_folder as tasks_folder,
)
from .lmms_eval.tasks import (
    write_task as write_task,
)
from .replacement import (
    REPLACEMENT_HEADER as REPLACEMENT_HEADER,
)
from .replacement import (
    replacement_rows as replacement_rows,
)
from .replacement import (
    replacement_test as replacement_test,
)
from .replacement import (
    write_replacement as write_replacement,
)
from .scoring import (
    HEADER as HEADER,
)
from .scoring import (
    PUBLISHED_NOTE as PUBLISHED_NOTE,
)
from .scoring import (
    Outcome as Outcome,
)
from .scoring import (
    Scores as Scores,
)
from .scoring import (
    compare as compare,
)
from .scoring import (
    compared as compared,
)
from .scoring import (
    evaluate as evaluate,
)
from .scoring import (
    read_predictions as read_predictions,
)
from .scoring import (
    rows_of as rows_of,
)
from .scoring import (
    to_csv as to_csv,
)
from .scoring import (
    to_json as to_json,
)
from .scoring import (
    to_markdown as to_markdown,
)
from .scoring import (
    write_report as write_report,
)
from .specialists import (
    answer_of as answer_of,
)
from .specialists import (
    estimate_case as estimate_case,
)
from .specialists import (
    specialist_estimates as specialist_estimates,
)
