//! Answer relevancy: how near the user's question is to questions that the response answers.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, arXiv:2309.15217, section 3.

use crate::evaluate::{
    metric::Definition,
    sample::Field::{Response, UserInput},
    score::Estimate,
};

pub const DEFINITION: Definition = Definition {
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

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// At least 1.
    pub questions: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { questions: 3 }
    }
}

/// A question that the judge made from the response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// Cosine with the user's input, -1 to 1.
    pub similarity: f64,
    pub noncommittal: bool,
}

/// The score, and the mean before it was clamped, where all questions are there.
pub fn score(questions: &[Option<Question>]) -> (Estimate, Option<f64>) {
    let given: Vec<Question> = questions.iter().flatten().copied().collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn question(similarity: f64, noncommittal: bool) -> Option<Question> {
        Some(Question { similarity, noncommittal })
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
