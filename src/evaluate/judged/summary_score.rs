//! Summary score: questions made from the contexts that the summary answers, against its length.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, summarization score.

use std::sync::Arc;

use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    options::OptionReader,
    prompts::Template,
    replies::{KeyphrasesReply, SummaryAnswer, SummaryAnswersReply, SummaryQuestionsReply},
    result::{Claim, ClaimOrigin, Failure},
    sample::{
        Field::{self, *},
        joined,
    },
    score::{Estimate, share},
    steps::{Each, JudgeQuestion, Ledger, Steps, at_most},
};
use crate::proto::metric_selection::Options;
use serde_json::json;

/// The share of questions about the contexts that the summary answers, and its brevity.
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryScore {
    /// Whether the score includes the brevity of the summary.
    pub length_penalty: bool,
    /// 0 to 1.
    pub conciseness_weight: f64,
}

impl Default for SummaryScore {
    fn default() -> SummaryScore {
        SummaryScore { length_penalty: true, conciseness_weight: 0.5 }
    }
}

/// Lengths in code points.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Length of the summary.
    pub summary: usize,
    /// Length of the summarized text.
    pub text: usize,
}

/// `answered` has a verdict for each question.
pub fn score(answered: &[Option<bool>], lengths: Lengths, options: &SummaryScore) -> Estimate {
    if answered.is_empty() {
        return Estimate::NotApplicable("the text gives no questions");
    }
    Estimate::rising(answered, |answered| {
        let answered = share(answered);
        if !options.length_penalty {
            return answered;
        }
        let weight = options.conciseness_weight;
        (1.0 - weight) * answered + weight * conciseness(lengths)
    })
}

fn conciseness(lengths: Lengths) -> f64 {
    1.0 - lengths.summary.min(lengths.text) as f64 / lengths.text.max(1) as f64
}

impl MetricType for SummaryScore {
    const DEFINITION: &Definition = &Definition {
        name: "summary_score",
        needs: &[Response],
        any_of: &[ReferenceContexts, RetrievedContexts],
        judge_calls: 3,
        options_field: "summary_score",
        formula: "(1 - w) * answered questions / questions + w * (1 - min(length of summary, length of text) / length of text), \
                  lengths in code points, w = 0.5; the text are the reference contexts or, without any, the retrieved ones",
        source: "RAGAS, SummarizationScore",
        differs: "Without the length penalty the answered questions count in full, as in RAGAS's newer API; its older one \
                  still multiplies them by 1 - w. RAGAS adds 1e-10 to the length of the text, and reads the reference \
                  contexts alone.",
        ..Definition::JUDGED
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<SummaryScore> {
        let Options::SummaryScore(options) = options else { return None };
        let default = SummaryScore::default();
        let field = "summary_score.conciseness_weight";
        let weight = reader.number(field, options.conciseness_weight, default.conciseness_weight, 0.0..=1.0);
        let length_penalty = options.length_penalty.unwrap_or(default.length_penalty);
        Some(SummaryScore { length_penalty, conciseness_weight: weight })
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let text = steps.derive(|sample| {
            let of_reference = sample.has(Field::ReferenceContexts);
            joined(if of_reference { &sample.reference_contexts } else { &sample.retrieved_contexts })
        });
        let text = text.await?;
        let (answers, failure) = summary_answers(steps, &text, ledger).await?;
        let (sample, options) = (Arc::clone(&steps.sample), self.clone());
        Ok(Computation::of(move || {
            let (summary, text) = (sample.response.chars().count(), text.chars().count());
            summary_finding(answers, Lengths { summary, text }, &options, failure)
        }))
    }
}

/// Questions made from the text, with whether the summary answers each.
async fn summary_answers(
    steps: &Steps<'_>,
    text: &str,
    ledger: &mut Ledger,
) -> Result<(Vec<(String, Option<SummaryAnswer>)>, Option<Failure>), Failure> {
    let question = JudgeQuestion::new(Template::Keyphrases).part("text", json!(text));
    let (keyphrases, cost) = steps.ask::<KeyphrasesReply>(question).await;
    ledger.enter(cost);
    let question = JudgeQuestion::new(Template::SummaryQuestions)
        .part("text", json!(text))
        .part("keyphrases", json!(at_most("keyphrases", keyphrases?.keyphrases.0)?));
    let (questions, cost) = steps.ask::<SummaryQuestionsReply>(question).await;
    ledger.enter(cost);
    let questions = at_most("questions", questions?.questions.0)?;
    let each = Each::<SummaryAnswersReply, SummaryAnswer> {
        letter: 'q',
        count: questions.len(),
        batch: 32,
        question: &|indices| {
            let items = indices.iter().map(|&n| json!({"id": format!("q{}", n + 1), "text": questions[n]}));
            JudgeQuestion::new(Template::SummaryAnswers)
                .part("summary", json!(steps.sample.response))
                .part("questions", items.collect())
        },
        verdicts: |answer| answer.verdicts.into_iter().map(|v| (v.id.clone(), v)).collect(),
        agree: |a, b| a.answered == b.answered,
    };
    let judged = steps.judge_each(&each).await;
    ledger.enter(judged.cost);
    match judged.failure {
        Some(failure) if judged.verdicts.iter().all(Option::is_none) => Err(failure),
        failure => Ok((questions.iter().cloned().zip(judged.verdicts).collect(), failure)),
    }
}

/// Questions with whether the summary answers them.
fn summary_finding(
    answers: Vec<(String, Option<SummaryAnswer>)>,
    lengths: Lengths,
    options: &SummaryScore,
    failure: Option<Failure>,
) -> Finding {
    let answered: Vec<Option<bool>> =
        answers.iter().map(|(_, answer)| answer.as_ref().map(|answer| answer.answered.0)).collect();
    let yes = answered.iter().filter(|verdict| **verdict == Some(true)).count();
    let reason = format!("the summary answers {yes} of {} questions", answered.len());
    let claims = answers.into_iter().enumerate().map(|(index, (text, answer))| Claim {
        id: format!("q{}", index + 1),
        origin: ClaimOrigin::Question,
        text,
        verdict: answer.as_ref().map(|answer| answer.answered.0),
        reason: answer.map(|answer| answer.reason).unwrap_or_default(),
        evidence: Vec::new(),
        evidence_unverified: false,
    });
    let finding = Finding::of(score(&answered, lengths, options), reason);
    let finding = Finding { claims: claims.collect(), missing: failure, ..finding.counting(&answered) };
    finding
        .detail("summary_code_points", lengths.summary as f64)
        .detail("text_code_points", lengths.text as f64)
}
