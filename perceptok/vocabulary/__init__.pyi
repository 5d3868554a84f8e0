from .alignment import (
    AlignmentAccumulator as AlignmentAccumulator,
)
from .alignment import (
    VocabularyAlignment as VocabularyAlignment,
)
from .alignment import (
    align_vocabularies as align_vocabularies,
)
from .extension import extend_vocabulary as extend_vocabulary
from .initialization import Init as Init
from .lookup import (
    MANIFEST as MANIFEST,
)
from .lookup import (
    PerceptionVocabulary as PerceptionVocabulary,
)
from .lookup import (
    restore_text as restore_text,
)
from .lookup import (
    sanitise_text as sanitise_text,
)
from .remapping import (
    AURORA_FIRST_ID as AURORA_FIRST_ID,
)
from .remapping import (
    consecutive_vocabulary as consecutive_vocabulary,
)
from .remapping import (
    remap_ids as remap_ids,
)
from .remapping import (
    remap_rows as remap_rows,
)
from .trainable import (
    peft_settings as peft_settings,
)
from .trainable import (
    trainable_parameters as trainable_parameters,
)
from .trainable import (
    verify_adapter as verify_adapter,
)
