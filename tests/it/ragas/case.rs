//! A case of ragas.json: a sample, verdicts, and RAGAS's number.

use assay::evaluate::{
    judged::{
        answer_correctness::{self},
        answer_relevancy,
        aspect_critic::Criterion,
        factual_correctness::FactualMode,
        noise_sensitivity::NoiseMode,
    },
    lexical::{string_similarity::StringMeasure, text_context::ContextMatch},
    metric::Metric,
    metrics::*,
    sample::{Context, Sample},
    score::Estimate,
    vector::{cosine, semantic_similarity},
};
use serde::Deserialize;
use serde_json::Value;

use crate::support::fixture;

#[derive(Deserialize)]
pub struct Case {
    pub metric: String,
    pub case: String,
    pub sample: Value,
    pub options: Value,
    pub verdicts: Value,
    /// None where RAGAS gives NaN or raises.
    pub score: Option<f64>,
    /// Before RAGAS rounds it.
    pub unrounded: Option<f64>,
    /// Why our number may be another.
    pub differs: Option<String>,
}

pub fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(fixture("ragas.json")).expect("the goldens");
    serde_json::from_str(&text).expect("cases")
}

impl Case {
    pub fn needs_vectors(&self) -> bool {
        self.verdicts.get("embeddings").is_some()
    }

    /// Whether the sample has what the metric needs, and the options are such that we have them too.
    pub fn is_complete(&self) -> bool {
        let is_ours = self.options["case_fold"] != false;
        is_ours && self.metric().definition().missing(&self.sample()).is_empty()
    }

    pub fn expected(&self) -> f64 {
        self.unrounded.or(self.score).expect("a number")
    }

    /// RAGAS adds 1e-10 or 1e-8 to some divisors.
    pub fn tolerance(&self) -> f64 {
        let adds =
            ["context_precision", "context_utilization", "entity", "factual", "summary", "text_context"];
        if adds.iter().any(|name| self.metric.contains(name)) { 1e-7 } else { 1e-9 }
    }

    pub fn sample(&self) -> Sample {
        let text = |name: &str| self.sample[name].as_str().unwrap_or_default().to_owned();
        Sample {
            user_input: text("user_input"),
            response: text("response"),
            reference: text("reference"),
            retrieved_contexts: self.contexts("retrieved_contexts", "retrieved_context_ids"),
            reference_contexts: self.contexts("reference_contexts", "reference_context_ids"),
            rubrics: rubrics_of(&self.sample["rubrics"]),
            ..Sample::default()
        }
    }

    fn contexts(&self, texts: &str, ids: &str) -> Vec<Context> {
        let texts = strings(&self.sample[texts]).into_iter().map(|text| Context { text, id: String::new() });
        let ids = self.sample[ids].as_array().into_iter().flatten().map(id_of);
        texts.chain(ids.map(|id| Context { text: String::new(), id })).collect()
    }

    pub fn metric(&self) -> Metric {
        let options = &self.options;
        match self.metric.as_str() {
            "context_precision_without_reference" => Metric::from(ContextPrecision),
            "domain_rubrics" => {
                let rubrics = rubrics_of(&options["rubrics"]);
                let given = (!rubrics.is_empty()).then_some(Rubrics { rubrics });
                Metric::from(given.unwrap_or_default())
            }
            "factual_correctness" => Metric::from(factual_options(options)),
            "noise_sensitivity" => Metric::from(NoiseSensitivity {
                mode: match options["mode"].as_str() {
                    Some("irrelevant") => NoiseMode::Irrelevant,
                    _ => NoiseMode::Relevant,
                },
            }),
            "summary_score" => Metric::from(SummaryScore {
                length_penalty: options["length_penalty"].as_bool().unwrap_or(true),
                conciseness_weight: options["coefficient"].as_f64().unwrap_or(0.5),
            }),
            "aspect_critic" => Metric::from(AspectCritic(self.criterion())),
            "simple_criteria" => Metric::from(SimpleCriteria(self.criterion())),
            "text_context_precision" => Metric::from(TextContextPrecision(context_options(options))),
            "text_context_recall" => Metric::from(TextContextRecall(context_options(options))),
            name => Metric::named(name).unwrap_or_else(|| panic!("{name} is no metric")),
        }
    }

    fn criterion(&self) -> Criterion {
        let definition = self.options["definition"].as_str().expect("a criterion").to_owned();
        let samples = self.verdicts["votes"].as_array().expect("votes").len();
        Criterion { definition, samples, lowest: -1000, highest: 1000 }
    }

    pub fn score_of_vectors(&self) -> f64 {
        let vectors = &self.verdicts["embeddings"];
        let between = |a: &str, b: &str| cosine(&numbers(&vectors[a]), &numbers(&vectors[b]));
        let estimate = match self.metric.as_str() {
            "answer_relevancy" => {
                let input = numbers(&vectors["user_input"]);
                let texts = vectors["questions"].as_array().expect("vectors").iter();
                let asked = self.verdicts["questions"].as_array().expect("questions").iter();
                let question = |(vector, asked): (&Value, &Value)| {
                    let noncommittal = asked["noncommittal"].as_bool().expect("a verdict");
                    let similarity = cosine(&input, &numbers(vector));
                    Some(answer_relevancy::GeneratedQuestion { similarity, noncommittal })
                };
                answer_relevancy::score(&texts.zip(asked).map(question).collect::<Vec<_>>()).0
            }
            "answer_correctness" => answer_correctness::score(
                &self.verdicts_of("response_claims", "supported_by_reference"),
                &self.verdicts_of("reference_claims", "supported_by_response"),
                between("response", "reference"),
                &AnswerCorrectness {
                    factuality_weight: self.options["weights"][0].as_f64().expect("a weight"),
                    similarity_weight: self.options["weights"][1].as_f64().expect("a weight"),
                    beta: self.options["beta"].as_f64().unwrap_or(1.0),
                },
            ),
            "semantic_similarity" => {
                let threshold = self.options["threshold"].as_f64();
                let (a, b) = (numbers(&vectors["response"]), numbers(&vectors["reference"]));
                semantic_similarity::score(&a, &b, &SemanticSimilarity { threshold })
            }
            name => panic!("{name} has no vectors"),
        };
        match estimate {
            Estimate::Exact(score) => score,
            other => panic!("{} {}: {other:?}", self.metric, self.case),
        }
    }

    /// Of each claim of a list.
    pub fn verdicts_of(&self, list: &str, verdict: &str) -> Vec<Option<bool>> {
        let claims = self.verdicts[list].as_array().into_iter().flatten();
        claims.map(|claim| claim[verdict].as_bool()).collect()
    }
}

fn factual_options(options: &Value) -> FactualCorrectness {
    let mode = match options["mode"].as_str() {
        Some("precision") => FactualMode::Precision,
        Some("recall") => FactualMode::Recall,
        _ => FactualMode::F,
    };
    FactualCorrectness { mode, beta: options["beta"].as_f64().unwrap_or(1.0) }
}

fn context_options(options: &Value) -> ContextMatch {
    let measure = match options["measure"].as_str() {
        Some("hamming") => StringMeasure::Hamming,
        Some("jaro") => StringMeasure::Jaro,
        Some("jaro_winkler") => StringMeasure::JaroWinkler,
        _ => StringMeasure::Levenshtein,
    };
    ContextMatch { measure, threshold: options["threshold"].as_f64().unwrap_or(0.5) }
}

/// RAGAS calls them score1_description and so on.
fn rubrics_of(rubrics: &Value) -> std::collections::BTreeMap<i32, String> {
    let rubrics = rubrics.as_object().into_iter().flatten();
    let score = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok();
    rubrics.filter_map(|(name, text)| Some((score(name)?, text.as_str()?.to_owned()))).collect()
}

fn id_of(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

pub fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

fn numbers(vector: &Value) -> Vec<f32> {
    let numbers = vector.as_array().expect("a vector").iter();
    numbers.map(|number| number.as_f64().expect("a number") as f32).collect()
}
