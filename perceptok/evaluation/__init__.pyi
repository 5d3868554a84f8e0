from .ablation import (
    ABLATION_HEADER as ABLATION_HEADER,
    CellScores as CellScores,
    ablation_rows as ablation_rows,
    run_ablation as run_ablation,
    write_ablation as write_ablation,
)
from .ablation_recipe import (
    AblationCell as AblationCell,
    AblationRecipe as AblationRecipe,
    AblationTest as AblationTest,
    shipped_cells as shipped_cells,
)
from .asking import (
    EvaluationConfig as EvaluationConfig,
    answer_benchmark as answer_benchmark,
    evaluate_pipeline as evaluate_pipeline,
)
from .benchmarks import (
    BENCHMARKS as BENCHMARKS,
    Benchmark as Benchmark,
    BenchmarkItem as BenchmarkItem,
    load_benchmark as load_benchmark,
)
from .evidence import (
    BoxEvidence as BoxEvidence,
    Calibration as Calibration,
    DepthEvidence as DepthEvidence,
    EvidenceReport as EvidenceReport,
    ItemEvidence as ItemEvidence,
    calibrate as calibrate,
    check_boxes as check_boxes,
    check_depth as check_depth,
    check_evidence as check_evidence,
)
from .experiments import (
    AuroraExperiment as AuroraExperiment,
    AuroraStage as AuroraStage,
    aurora_rows as aurora_rows,
    measure_aurora as measure_aurora,
    plan_aurora as plan_aurora,
    run_aurora as run_aurora,
)
from .judging import (
    Judge as Judge,
    JudgeReport as JudgeReport,
)
from .lmms_eval.tasks import (
    tasks_folder as tasks_folder,
    write_task as write_task,
)
from .replacement import (
    REPLACEMENT_HEADER as REPLACEMENT_HEADER,
    REPLACEMENT_KINDS as REPLACEMENT_KINDS,
    Replacement as Replacement,
    ReplacementKind as ReplacementKind,
    replacement_rows as replacement_rows,
    replacement_test as replacement_test,
    write_replacement as write_replacement,
)
from .reports import (
    PUBLISHED_NOTE as PUBLISHED_NOTE,
    SCORE_HEADER as SCORE_HEADER,
    comparison_rows as comparison_rows,
    describe_agreement as describe_agreement,
    describe_judge as describe_judge,
    estimate_case as estimate_case,
    evidence_tables as evidence_tables,
    outcome_case as outcome_case,
    score_rows as score_rows,
    write_report as write_report,
    write_scores as write_scores,
)
from .scoring import (
    Comparison as Comparison,
    Outcome as Outcome,
    Prediction as Prediction,
    Score as Score,
    Scores as Scores,
    compare_scores as compare_scores,
    compute_interval as compute_interval,
    evaluate as evaluate,
    read_predictions as read_predictions,
)
from .specialists import (
    Estimate as Estimate,
    SpecialistScores as SpecialistScores,
    evaluate_specialist as evaluate_specialist,
    find_markers as find_markers,
)
