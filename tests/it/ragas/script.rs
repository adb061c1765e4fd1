//! A judge that says what a case has it say.

use serde_json::{Value, json};

use super::case::Case;
use crate::support::judge::Asked;

pub struct Script {
    verdicts: Value,
    response: String,
    reference: String,
    metric: String,
}

impl Script {
    pub fn of(case: &Case) -> Script {
        let sample = case.sample();
        Script {
            verdicts: case.verdicts.clone(),
            response: sample.response,
            reference: sample.reference,
            metric: case.metric.clone(),
        }
    }

    pub fn answer(&self, asked: &Asked) -> Value {
        let said = &self.verdicts;
        match asked.verdict.as_deref().unwrap_or_default() {
            "claims" => json!({"claims": self.claims(asked.part("text"))}),
            "verification" => json!({"verdicts": self.verification(asked)}),
            "usefulness" => {
                let useful = said["useful"].as_array().expect("verdicts").iter().enumerate();
                let verdict =
                    |(n, useful): (usize, &Value)| json!({"id": format!("s{}", n + 1), "useful": useful});
                json!({"verdicts": useful.map(verdict).collect::<Value>()})
            }
            "entities" if asked.part("text") == &json!(self.reference) => {
                json!({"entities": said["reference_entities"]})
            }
            "entities" => json!({"entities": said["context_entities"]}),
            "accuracy" | "relevance" => self.rating(asked),
            "keyphrases" => json!({"keyphrases": said["keyphrases"]}),
            "summary_questions" => json!({"questions": said["questions"]}),
            "summary_answers" => {
                let answers = said["answers"].as_array().expect("answers").iter().enumerate();
                let verdict =
                    |(n, yes): (usize, &Value)| json!({"id": format!("q{}", n + 1), "answered": yes});
                json!({"verdicts": answers.map(verdict).collect::<Value>()})
            }
            "aspect" => json!({"reason": "", "verdict": said["votes"][asked.sample as usize]}),
            "graded" if self.metric == "simple_criteria" => {
                json!({"reason": "", "score": said["votes"][asked.sample as usize]})
            }
            "graded" => json!({"reason": "", "score": said["rating"]}),
            other => panic!("{other} is not in the script of {}", self.metric),
        }
    }

    fn claims(&self, text: &Value) -> Vec<String> {
        let list = if text == &json!(self.response) { "response_claims" } else { "reference_claims" };
        let claims = self.verdicts[list].as_array().into_iter().flatten();
        claims.map(|claim| claim["text"].as_str().expect("a text").to_owned()).collect()
    }

    fn verification(&self, asked: &Asked) -> Vec<Value> {
        let claims = asked.part("claims").as_array().expect("claims");
        let sources: Vec<String> = asked
            .part("sources")
            .as_array()
            .expect("sources")
            .iter()
            .map(|source| source["text"].as_str().expect("a text").to_owned())
            .collect();
        let by = match &sources[..] {
            [only] if *only == self.reference => "supported_by_reference",
            [only] if *only == self.response => "supported_by_response",
            _ => "contexts",
        };
        claims.iter().map(|claim| self.verdict(claim, by)).collect()
    }

    fn verdict(&self, claim: &Value, by: &str) -> Value {
        let lists = match by {
            "supported_by_reference" => &["response_claims"][..],
            "supported_by_response" => &["reference_claims"],
            _ => &["response_claims", "reference_claims"],
        };
        let rows = lists.iter().flat_map(|list| self.verdicts[list].as_array().into_iter().flatten());
        let row = rows.clone().find(|row| row["text"] == claim["text"]).expect("a claim of the script");
        let (supported, sources) = match &row["supported_by_contexts"] {
            Value::Array(contexts) if by == "contexts" => {
                let named = contexts.iter().enumerate().filter(|(_, yes)| yes.as_bool() == Some(true));
                let named: Vec<String> = named.map(|(n, _)| format!("s{}", n + 1)).collect();
                (json!(!named.is_empty()), named)
            }
            _ if by == "contexts" => (row["supported"].clone(), vec!["s1".to_owned()]),
            _ => (row[by].clone(), vec!["s1".to_owned()]),
        };
        json!({"id": claim["id"], "reason": "", "quote": "", "sources": sources, "supported": supported})
    }

    /// The two judges have different instructions; the first of each pair says so in its own words.
    fn rating(&self, asked: &Asked) -> Value {
        let first = FIRST.iter().any(|words| asked.system.contains(words));
        match &self.verdicts["ratings"][usize::from(!first)] {
            Value::Null => json!("I cannot say."),
            rating => json!({"reason": "", "rating": rating}),
        }
    }
}

/// How the instructions of the first judge of each pair begin.
const FIRST: [&str; 6] = [
    "Rate how well a response agrees",
    "把回答和参考答案当作",
    "Rate whether the contexts",
    "评定这些上下文",
    "Rate how far the response is grounded",
    "评定回答在多大程度上",
];
