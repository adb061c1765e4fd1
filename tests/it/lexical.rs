//! Scores against those of sacrebleu, rouge_score, rapidfuzz and NLTK. tests/fixtures/README.md says how they were made.

use crate::support::fixture;
use assay::evaluate::lexical::{
    Pair, Retrieval, Tokenization, bleu, chrf, porter, rouge, string_similarity, text_context, token_f1,
};
use serde::Deserialize;
use serde_json::Value;
use std::fs;

const TOLERANCE: f64 = 1e-6;

#[derive(Deserialize)]
struct Goldens {
    pairs: Vec<Texts>,
    cases: Vec<Case>,
    retrievals: Vec<Contexts>,
    stems: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Texts {
    kind: String,
    response: String,
    reference: String,
}

/// One metric with one set of options, and the score of each pair of these kinds.
#[derive(Deserialize)]
struct Case {
    metric: String,
    options: Value,
    kinds: Vec<String>,
    scores: Vec<Option<f64>>,
}

#[derive(Deserialize)]
struct Contexts {
    retrieved: Vec<String>,
    reference: Vec<String>,
    measure: String,
    threshold: f64,
    precision: f64,
    recall: f64,
}

fn goldens() -> Goldens {
    let text = fs::read_to_string(fixture("lexical.json")).expect("the goldens are committed");
    serde_json::from_str(&text).expect("the goldens are as this test reads them")
}

fn check(metric: &str, score: impl Fn(Pair, &Value) -> Option<f64>) {
    let goldens = goldens();
    let mut compared = 0;
    for case in goldens.cases.iter().filter(|case| case.metric == metric) {
        let pairs: Vec<&Texts> =
            goldens.pairs.iter().filter(|pair| case.kinds.contains(&pair.kind)).collect();
        assert_eq!(pairs.len(), case.scores.len());
        for (texts, expected) in pairs.iter().zip(&case.scores) {
            let Texts { response, reference, .. } = texts;
            let found = score(Pair { response, reference }, &case.options);
            let of = format!("{response:?} against {reference:?}, {}", case.options);
            assert!(is_near(found, *expected), "{metric} of {of}: {found:?} for {expected:?}");
            compared += 1;
        }
    }
    assert!(compared > 60, "{metric} was compared {compared} times");
}

fn is_near(found: Option<f64>, expected: Option<f64>) -> bool {
    match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() <= TOLERANCE,
        (found, expected) => found == expected,
    }
}

fn flag(options: &Value, name: &str) -> bool {
    options[name].as_bool().expect("a flag")
}

fn order(options: &Value, name: &str) -> u8 {
    options[name].as_u64().expect("an order").try_into().expect("a small order")
}

fn tokens(options: &Value) -> Tokenization {
    match options["tokens"].as_str() {
        Some("english") => Tokenization::English,
        Some("characters") => Tokenization::Characters,
        Some("words") => Tokenization::Words,
        other => panic!("no tokens {other:?}"),
    }
}

fn measure(name: &str) -> string_similarity::StringMeasure {
    match name {
        "levenshtein" => string_similarity::StringMeasure::Levenshtein,
        "hamming" => string_similarity::StringMeasure::Hamming,
        "jaro" => string_similarity::StringMeasure::Jaro,
        "jaro_winkler" => string_similarity::StringMeasure::JaroWinkler,
        other => panic!("no measure {other}"),
    }
}

fn bleu_options(options: &Value) -> bleu::Bleu {
    let amount = || options["amount"].as_f64().expect("an amount");
    bleu::Bleu {
        tokenizer: match options["tokenizer"].as_str() {
            Some("13a") => bleu::BleuTokenizer::Mteval13a,
            Some("zh") => bleu::BleuTokenizer::Chinese,
            Some("char") => bleu::BleuTokenizer::Characters,
            Some("intl") => bleu::BleuTokenizer::International,
            Some("none") => bleu::BleuTokenizer::None,
            other => panic!("no tokenizer {other:?}"),
        },
        smoothing: match options["smoothing"].as_str() {
            Some("exp") => bleu::BleuSmoothing::Exponential,
            Some("floor") => bleu::BleuSmoothing::Floor(amount()),
            Some("add-k") => bleu::BleuSmoothing::AddK(amount()),
            Some("none") => bleu::BleuSmoothing::None,
            other => panic!("no smoothing {other:?}"),
        },
        max_order: order(options, "max_order"),
        effective_order: flag(options, "effective_order"),
        lowercase: flag(options, "lowercase"),
    }
}

fn rouge_options(options: &Value) -> rouge::Rouge {
    rouge::Rouge {
        variant: match options["variant"].as_str() {
            Some("rouge1") => rouge::RougeVariant::Rouge1,
            Some("rouge2") => rouge::RougeVariant::Rouge2,
            Some("rougeL") => rouge::RougeVariant::RougeL,
            other => panic!("no variant {other:?}"),
        },
        measure: match options["measure"].as_str() {
            Some("precision") => rouge::RougeMeasure::Precision,
            Some("recall") => rouge::RougeMeasure::Recall,
            Some("fmeasure") => rouge::RougeMeasure::FMeasure,
            other => panic!("no measure {other:?}"),
        },
        tokens: tokens(options),
        stem: flag(options, "stem"),
    }
}

#[test]
fn bleu_is_that_of_sacrebleu() {
    check("bleu", |pair, options| bleu::score(pair, &bleu_options(options)));
}

#[test]
fn chrf_is_that_of_sacrebleu() {
    check("chrf", |pair, options| {
        let options = chrf::Chrf {
            char_order: order(options, "char_order"),
            word_order: order(options, "word_order"),
            beta: options["beta"].as_f64().expect("a number"),
            lowercase: flag(options, "lowercase"),
            whitespace: flag(options, "whitespace"),
        };
        chrf::score(pair, &options)
    });
}

#[test]
fn rouge_is_that_of_rouge_score() {
    check("rouge", |pair, options| rouge::score(pair, &rouge_options(options)));
}

#[test]
fn token_f1_is_that_of_the_squad_evaluation() {
    check("token_f1", |pair, options| token_f1::score(pair, &token_f1::TokenF1 { tokens: tokens(options) }));
}

#[test]
fn string_similarity_is_that_of_rapidfuzz() {
    check("string_similarity", |pair, options| {
        let measure = measure(options["measure"].as_str().expect("a measure"));
        Some(string_similarity::score(pair, &string_similarity::StringSimilarity { measure }))
    });
}

#[test]
fn context_scores_are_those_of_ragas_over_rapidfuzz() {
    let goldens = goldens();
    assert!(goldens.retrievals.len() > 40);
    for case in &goldens.retrievals {
        let [retrieved, reference] = [&case.retrieved, &case.reference]
            .map(|texts| texts.iter().map(String::as_str).collect::<Vec<_>>());
        let contexts = Retrieval { retrieved: &retrieved, reference: &reference };
        let options =
            text_context::ContextMatch { measure: measure(&case.measure), threshold: case.threshold };
        let found = [text_context::precision(contexts, &options), text_context::recall(contexts, &options)];
        let expected = [Some(case.precision), Some(case.recall)];
        let is_near = found.iter().zip(expected).all(|(found, expected)| is_near(*found, expected));
        assert!(is_near, "{contexts:?} {options:?}: {found:?} for {expected:?}");
    }
}

#[test]
fn stems_are_those_of_nltk() {
    let goldens = goldens();
    assert!(goldens.stems.len() > 5000);
    let wrong: Vec<_> =
        goldens.stems.iter().filter(|(word, stem)| porter::stem(word) != *stem).take(20).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
