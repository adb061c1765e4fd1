//! What is told of the metrics that compare texts.

use crate::evaluate::{
    metric::Definition,
    sample::Field::{
        Reference, ReferenceContextIds, ReferenceContexts, Response, RetrievedContextIds, RetrievedContexts,
    },
};

/// Of metrics that compare the response with the reference.
const PAIR: Definition = Definition { needs: &[Response, Reference], ..Definition::LEXICAL };

pub const BLEU: Definition = Definition {
    name: "bleu",
    options_field: "bleu",
    formula: "brevity penalty * geometric mean of the n-gram precisions of orders 1 to 4, exponentially smoothed, with \
              effective order, divided by 100",
    source: "sacrebleu, sentence_bleu; Papineni et al., ACL P02-1040",
    differs: "Over the whole text, where RAGAS scores the first sentence. Chinese is cut into characters, so that \
              equal texts score 1, where RAGAS gives 0.",
    ..PAIR
};

pub const ROUGE: Definition = Definition {
    name: "rouge",
    options_field: "rouge",
    formula: "ROUGE-L by default, or ROUGE-1 and ROUGE-2: F, precision or recall of what is in common; English words \
              are stemmed (Porter), Chinese is cut into characters or words",
    source: "rouge_score; Lin, ACL W04-1013",
    differs: "Chinese characters count, where RAGAS drops them: equal Chinese texts score 1, and 0 there.",
    ..PAIR
};

pub const CHRF: Definition = Definition {
    name: "chrf",
    options_field: "chrf",
    formula: "F of the character n-grams of orders 1 to 6, recall counting twice as much; with word n-grams it is chrF++",
    source: "sacrebleu, sentence_chrf; Popović, ACL W15-3049",
    differs: "Divided by 100.",
    ..PAIR
};

pub const STRING_SIMILARITY: Definition = Definition {
    name: "string_similarity",
    options_field: "string_similarity",
    formula: "normalised Levenshtein (by default), Hamming, Jaro or Jaro-Winkler similarity on code points",
    source: "rapidfuzz.distance; RAGAS, NonLLMStringSimilarity",
    ..PAIR
};

pub const EXACT_MATCH: Definition = Definition {
    name: "exact_match",
    options_field: "match",
    formula: "1 if response and reference are the same, else 0",
    source: "RAGAS, ExactMatch",
    ..PAIR
};

pub const STRING_PRESENCE: Definition = Definition {
    name: "string_presence",
    options_field: "match",
    formula: "1 if the reference stands in the response, else 0",
    source: "RAGAS, StringPresence",
    ..PAIR
};

pub const TOKEN_F1: Definition = Definition {
    name: "token_f1",
    formula: "F1 of the tokens in common, without case, punctuation and English articles; Chinese by characters",
    source: "Rajpurkar et al., arXiv:1606.05250",
    ..PAIR
};

pub const ID_CONTEXT_PRECISION: Definition = Definition {
    name: "id_context_precision",
    needs: &[RetrievedContextIds, ReferenceContextIds],
    formula: "retrieved ids that are reference ids / retrieved ids, as sets",
    source: "RAGAS, IDBasedContextPrecision",
    ..Definition::LEXICAL
};

pub const ID_CONTEXT_RECALL: Definition = Definition {
    name: "id_context_recall",
    formula: "reference ids that were retrieved / reference ids, as sets",
    source: "RAGAS, IDBasedContextRecall",
    ..ID_CONTEXT_PRECISION
};

pub const TEXT_CONTEXT_PRECISION: Definition = Definition {
    name: "text_context_precision",
    needs: &[RetrievedContexts, ReferenceContexts],
    options_field: "context_match",
    formula: "average precision of the ranked contexts; one is relevant if its similarity to a reference context is \
              at least 0.5",
    source: "RAGAS, NonLLMContextPrecisionWithReference",
    differs: "RAGAS adds 1e-10 to the divisor.",
    ..Definition::LEXICAL
};

pub const TEXT_CONTEXT_RECALL: Definition = Definition {
    name: "text_context_recall",
    formula: "reference contexts whose similarity to a retrieved context is above 0.5 / reference contexts",
    source: "RAGAS, NonLLMContextRecall",
    differs: "",
    ..TEXT_CONTEXT_PRECISION
};

pub const QUOTED_SPANS: Definition = Definition {
    name: "quoted_spans",
    needs: &[Response, RetrievedContexts],
    formula: "quotations of at least three words of the response that stand in a context / quotations; 「」, 《》 and “” quote too",
    source: "RAGAS, QuotedSpansAlignment",
    differs: "Without a quotation it is NOT_APPLICABLE, where RAGAS gives 1. A quotation ends with its own mark and \
              stands in one context.",
    ..Definition::LEXICAL
};
