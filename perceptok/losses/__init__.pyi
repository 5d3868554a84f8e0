from .auxiliary import (
    count_loss as count_loss,
    marker_loss as marker_loss,
    merging_loss as merging_loss,
)
from .curriculum import (
    CurriculumSampler as CurriculumSampler,
    LinearSchedule as LinearSchedule,
    Mixture as Mixture,
    Schedule as Schedule,
    TemperatureSchedule as TemperatureSchedule,
    curriculum_probabilities as curriculum_probabilities,
    curriculum_temperature as curriculum_temperature,
)
from .distillation import distillation_loss as distillation_loss
from .log_probs import auxiliary_log_probs as auxiliary_log_probs
from .reconstruction import reconstruction_loss as reconstruction_loss
from .targets import (
    NextTokenTargets as NextTokenTargets,
    next_token_targets as next_token_targets,
)
