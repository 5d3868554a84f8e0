from .alignment import (
    AlignmentAccumulator as AlignmentAccumulator,
    VocabularyAlignment as VocabularyAlignment,
    align_vocabularies as align_vocabularies,
)
from .extension import extend_vocabulary as extend_vocabulary
from .initialization import Init as Init
from .lookup import (
    MANIFEST as MANIFEST,
    PerceptionVocabulary as PerceptionVocabulary,
    restore_text as restore_text,
    sanitize_text as sanitize_text,
)
from .remapping import (
    AURORA_FIRST_ID as AURORA_FIRST_ID,
    consecutive_vocabulary as consecutive_vocabulary,
    remap_ids as remap_ids,
    remap_rows as remap_rows,
)
from .trainable import (
    peft_settings as peft_settings,
    trainable_parameters as trainable_parameters,
    verify_adapter as verify_adapter,
)
