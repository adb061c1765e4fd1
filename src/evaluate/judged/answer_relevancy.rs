//! Answer relevancy: how near the user's question is to questions that the response answers.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, arXiv:2309.15217, section 3.

use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    options::OptionReader,
    prompts::Template,
    replies::QuestionReply,
    result::{Claim, ClaimOrigin, Failure},
    sample::Field::{Response, UserInput},
    score::Estimate,
    steps::{EmbeddedTexts, JudgeQuestion, Ledger, Steps},
    vector::cosine,
};
use crate::proto::metric_selection::Options;
use serde_json::json;

/// The similarity of the user's question to questions that the response answers.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRelevancy {
    /// At least 1.
    pub questions: usize,
}

impl Default for AnswerRelevancy {
    fn default() -> AnswerRelevancy {
        AnswerRelevancy { questions: 3 }
    }
}

/// A question that the judge made from the response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeneratedQuestion {
    /// Cosine with the user's input, -1 to 1.
    pub similarity: f64,
    /// Whether the judge finds that the response evades an answer.
    pub noncommittal: bool,
}

/// The score, and the mean before it was clamped, where all questions are there.
pub fn score(questions: &[Option<GeneratedQuestion>]) -> (Estimate, Option<f64>) {
    let given: Vec<GeneratedQuestion> = questions.iter().flatten().copied().collect();
    let all = questions.len() as f64;
    let sum: f64 = given.iter().map(|question| question.similarity).sum();
    let committal = given.iter().any(|question| !question.noncommittal);
    let of = |sum: f64, committal: bool| if committal { (sum / all).clamp(0.0, 1.0) } else { 0.0 };
    let missing = all - given.len() as f64;
    if missing > 0.0 {
        // A missing question may be as far as can be, or the same and committal.
        return (Estimate::Between(of(sum - missing, committal), of(sum + missing, true)), None);
    }
    (Estimate::Exact(of(sum, committal)), Some(sum / all))
}

impl MetricType for AnswerRelevancy {
    const DEFINITION: &Definition = &Definition {
        name: "answer_relevancy",
        needs: &[UserInput, Response],
        judge_calls: 1,
        embeddings: true,
        options_field: "answer_relevancy",
        formula: "mean cosine of the vectors of the user's input and of n questions that the judge makes from the \
                  response alone; 0 if the response is noncommittal in all of them; clamped to 0 to 1",
        source: "RAGAS, arXiv:2309.15217, section 3",
        differs: "Clamped, with the mean before in details. The n questions are one call where the endpoint takes n, else n calls \
                  side by side at a temperature above 0.",
        ..Definition::JUDGED
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<AnswerRelevancy> {
        let Options::AnswerRelevancy(options) = options else { return None };
        let questions = reader.number("answer_relevancy.questions", options.questions, 3, 1..=10);
        Some(AnswerRelevancy { questions: questions as usize })
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let question = JudgeQuestion::new(Template::Question).part("response", json!(steps.sample.response));
        let (answers, cost) = steps.ask_many::<QuestionReply>(question, self.questions).await;
        ledger.enter(cost);
        let failure = answers.iter().find_map(|answer| answer.as_ref().err().cloned());
        let given: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        if let Some(failure) = failure.clone().filter(|_| given.is_empty()) {
            return Err(failure);
        }
        let texts: Vec<String> = given.iter().map(|question| question.question.clone()).collect();
        let texts = std::iter::once(steps.sample.user_input.clone()).chain(texts);
        let vectors = steps.vectors(texts).await?;
        Ok(Computation::of(move || relevancy(&answers, &vectors, failure)))
    }
}

/// The finding over questions that the judge made from the response. The first vector is that of the user's input.
fn relevancy(
    answers: &[Result<QuestionReply, Failure>],
    vectors: &EmbeddedTexts,
    failure: Option<Failure>,
) -> Finding {
    let given: Vec<&QuestionReply> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let rows = &vectors.rows;
    let mut similarities = (1..rows.len()).map(|index| cosine(rows.row(0), rows.row(index)));
    let questions: Vec<Option<GeneratedQuestion>> = answers
        .iter()
        .map(|answer| {
            let noncommittal = answer.as_ref().ok()?.noncommittal.0;
            Some(GeneratedQuestion { similarity: similarities.next()?, noncommittal })
        })
        .collect();
    let (estimate, mean) = score(&questions);
    let evasive = questions.iter().flatten().filter(|question| question.noncommittal).count();
    let reason = format!("{evasive} of {} questions come from a noncommittal response", given.len());
    let claims = given.iter().enumerate().map(|(index, question)| Claim {
        id: format!("q{}", index + 1),
        origin: ClaimOrigin::Question,
        text: question.question.clone(),
        verdict: Some(!question.noncommittal.0),
        reason: String::new(),
        evidence: Vec::new(),
        evidence_unverified: false,
    });
    let finding = Finding::of(estimate, reason).counting(&questions);
    let finding = Finding { claims: claims.collect(), missing: failure, ..finding };
    finding.detail("mean_cosine", mean.unwrap_or(f64::NAN)).noting_truncation(vectors.cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(similarity: f64, noncommittal: bool) -> Option<GeneratedQuestion> {
        Some(GeneratedQuestion { similarity, noncommittal })
    }

    #[test]
    fn only_a_response_that_is_noncommittal_throughout_scores_nothing() {
        let all = [question(0.9, true), question(0.8, true)];
        assert_eq!(score(&all).0, Estimate::Exact(0.0));
        let some = [question(0.5, true), question(1.0, false)];
        assert_eq!(score(&some), (Estimate::Exact(0.75), Some(0.75)));
    }

    #[test]
    fn a_negative_mean_is_clamped_and_told() {
        assert_eq!(score(&[question(-0.5, false)]), (Estimate::Exact(0.0), Some(-0.5)));
    }

    #[test]
    fn a_missing_question_leaves_bounds() {
        assert_eq!(score(&[question(0.5, false), None]).0, Estimate::Between(0.0, 0.75));
        assert_eq!(score(&[question(0.5, true), None]).0, Estimate::Between(0.0, 0.75));
    }
}
