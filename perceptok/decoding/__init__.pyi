from .consistency import (
    CountConsistency as CountConsistency,
    Interventions as Interventions,
    ListConsistency as ListConsistency,
    MarkerConsistency as MarkerConsistency,
    NumberIds as NumberIds,
    find_number_ids as find_number_ids,
)
from .engines.checking import (
    FormCount as FormCount,
    ServerCheck as ServerCheck,
    check_server as check_server,
    find_violations as find_violations,
)
from .engines.detection import (
    EngineName as EngineName,
    ServedEngine as ServedEngine,
    build_request_constraint as build_request_constraint,
    check_served_vocabulary as check_served_vocabulary,
    detect_engine as detect_engine,
    find_grammar_backend as find_grammar_backend,
)
from .engines.gbnf import build_gbnf_grammar as build_gbnf_grammar
from .engines.huggingface import (
    PerceptionLogitsProcessor as PerceptionLogitsProcessor,
    find_eos_token_ids as find_eos_token_ids,
    find_pad_token_id as find_pad_token_id,
    generate_perception as generate_perception,
)
from .engines.lark import build_lark_grammar as build_lark_grammar
from .engines.sglang import build_sglang_request as build_sglang_request
from .engines.structural_tag import build_structural_tag as build_structural_tag
from .grammar.automaton import (
    Grammar as Grammar,
    GrammarConfig as GrammarConfig,
    State as State,
    Symbol as Symbol,
    compile_grammar as compile_grammar,
)
from .grammar.token_symbols import classify_tokens as classify_tokens
from .reading.answers import (
    AnswerReading as AnswerReading,
    read_answer as read_answer,
)
from .reading.generation import (
    Generation as Generation,
    Problem as Problem,
    Span as Span,
    WrittenEvidence as WrittenEvidence,
    parse_generation as parse_generation,
    read_evidence as read_evidence,
)
from .reading.plain_text import to_plain_text as to_plain_text
from .reading.stream import (
    StreamEvent as StreamEvent,
    TokenStream as TokenStream,
)
