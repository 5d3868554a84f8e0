from .auxiliary import (
    ObjectiveWeights as ObjectiveWeights,
)
from .auxiliary import (
    count_loss as count_loss,
)
from .auxiliary import (
    marker_loss as marker_loss,
)
from .auxiliary import (
    merging_loss as merging_loss,
)
from .curriculum import (
    CurriculumSampler as CurriculumSampler,
)
from .curriculum import (
    LinearSchedule as LinearSchedule,
)
from .curriculum import (
    Schedule as Schedule,
)
from .curriculum import (
    TemperatureSchedule as TemperatureSchedule,
)
from .curriculum import (
    curriculum_probabilities as curriculum_probabilities,
)
from .curriculum import (
    curriculum_temperature as curriculum_temperature,
)
from .distillation import distillation_loss as distillation_loss
from .log_probs import auxiliary_log_probs as auxiliary_log_probs
from .reconstruction import reconstruction_loss as reconstruction_loss
from .targets import (
    NextTokenTargets as NextTokenTargets,
)
from .targets import (
    next_token_targets as next_token_targets,
)
