from .consistency import (
    CountConsistency as CountConsistency,
    ListConsistency as ListConsistency,
    MarkerConsistency as MarkerConsistency,
    NumberIds as NumberIds,
    number_ids as number_ids,
)
from .engines.gbnf import perception_gbnf as perception_gbnf
from .engines.huggingface import (
    PerceptionLogitsProcessor as PerceptionLogitsProcessor,
    generate_perception as generate_perception,
)
from .engines.lark import perception_lark as perception_lark
from .engines.structural_tag import perception_structural_tag as perception_structural_tag
from .grammar.automaton import (
    GrammarConfig as GrammarConfig,
    compile_grammar as compile_grammar,
)
from .reading.answers import (
    Reading as Reading,
    plain_text as plain_text,
    read_answer as read_answer,
)
from .reading.generation import (
    Generation as Generation,
    parse_generation as parse_generation,
    read_evidence as read_evidence,
)
from .reading.stream import (
    StreamEvent as StreamEvent,
    TokenStream as TokenStream,
)
