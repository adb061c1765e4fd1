//! Context entity recall: the share of the reference's entities that the retrieved contexts hold.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, context entity recall.

use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    sample::Field::{Reference, RetrievedContexts},
    score::Estimate,
    steps::{Ledger, Steps},
    text::normalize,
};
use futures::future::join;
use std::collections::BTreeSet;

/// The share of the reference's entities that the retrieved contexts name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextEntityRecall;

/// Computes the score from the entities of both sides; repeated entities count once.
pub fn score(reference: &[String], contexts: &[String]) -> Estimate {
    let set = |entities: &[String]| -> BTreeSet<String> {
        entities.iter().map(|entity| normalize(entity)).filter(|entity| !entity.is_empty()).collect()
    };
    let (reference, contexts) = (set(reference), set(contexts));
    if reference.is_empty() {
        return Estimate::NotApplicable("the reference names no entities");
    }
    Estimate::Exact(reference.intersection(&contexts).count() as f64 / reference.len() as f64)
}

impl MetricType for ContextEntityRecall {
    const DEFINITION: &Definition = &Definition {
        name: "context_entity_recall",
        needs: &[RetrievedContexts, Reference],
        judge_calls: 2,
        formula: "entities of the reference that are entities of the contexts / entities of the reference, as sets after \
                  NFKC and case folding",
        source: "RAGAS, ContextEntityRecall",
        differs: "Case and width don't count. A reference without entities is NOT_APPLICABLE. RAGAS adds 1e-8 to the \
                  divisor, and one of its two APIs counts a list instead of a set.",
        ..Definition::JUDGED
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let entities = join(steps.reference_entities(), steps.context_entities()).await;
        let (reference, contexts) = (ledger.take(entities.0), ledger.take(entities.1));
        let (reference, contexts) = (reference?, contexts?);
        let reason =
            format!("the reference names {} entities, the contexts {}", reference.len(), contexts.len());
        Ok(Computation::of(move || Finding::of(score(&reference, &contexts), reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_sets_without_case_and_width() {
        let of = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let (reference, contexts) = (of(&["Paris", "PARIS", "１９８９年"]), of(&["paris", "1989年", "Rome"]));
        assert_eq!(score(&reference, &contexts), Estimate::Exact(1.0));
        assert!(matches!(score(&[], &contexts), Estimate::NotApplicable(_)));
    }
}
