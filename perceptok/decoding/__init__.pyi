from .consistency import (
    CountConsistency as CountConsistency,
)
from .consistency import (
    ListConsistency as ListConsistency,
)
from .consistency import (
    MarkerConsistency as MarkerConsistency,
)
from .consistency import (
    NumberIds as NumberIds,
)
from .consistency import (
    number_ids as number_ids,
)
from .engines.gbnf import perception_gbnf as perception_gbnf
from .engines.huggingface import (
    PerceptionLogitsProcessor as PerceptionLogitsProcessor,
)
from .engines.huggingface import (
    generate_perception as generate_perception,
)
from .engines.lark import perception_lark as perception_lark
from .engines.structural_tag import perception_structural_tag as perception_structural_tag
from .grammar.automaton import (
    GrammarConfig as GrammarConfig,
)
from .grammar.automaton import (
    compile_grammar as compile_grammar,
)
from .reading.answers import (
    Reading as Reading,
)
from .reading.answers import (
    plain_text as plain_text,
)
from .reading.answers import (
    read_answer as read_answer,
)
from .reading.generation import (
    Generation as Generation,
)
from .reading.generation import (
    parse_generation as parse_generation,
)
from .reading.generation import (
    read_evidence as read_evidence,
)
from .reading.stream import (
    StreamEvent as StreamEvent,
)
from .reading.stream import (
    TokenStream as TokenStream,
)
