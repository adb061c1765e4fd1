//! Attribution of claims: locates the judge's quotes in their sources (pure).

use std::sync::Arc;

use crate::{
    evaluate::{
        replies::ClaimVerdict,
        result::{Evidence, EvidenceRange, EvidenceSource},
        sample::Sample,
        text::{Haystack, code_points},
    },
    judge::lenient::Id,
};

/// The sources of a question; in it they are s1, s2 and so on.
#[derive(Clone)]
pub(super) struct SourceTexts {
    pub sample: Arc<Sample>,
    pub sources: Vec<EvidenceSource>,
}

impl SourceTexts {
    pub(in crate::evaluate) fn text(&self, index: usize) -> &str {
        match self.sources[index] {
            EvidenceSource::RetrievedContext(context) => &self.sample.retrieved_contexts[context].text,
            EvidenceSource::Response => &self.sample.response,
            EvidenceSource::Reference => &self.sample.reference,
        }
    }

    /// Searchable forms of the sources, in their order.
    pub(in crate::evaluate) fn haystacks(&self) -> Vec<Haystack<'_>> {
        (0..self.sources.len()).map(|index| Haystack::new(self.text(index))).collect()
    }

    fn evidence(&self, index: usize, place: Option<EvidenceRange>) -> Evidence {
        let source = self.sources[index];
        let context_id = match source {
            EvidenceSource::RetrievedContext(context) => self.sample.retrieved_contexts[context].id.clone(),
            EvidenceSource::Response | EvidenceSource::Reference => String::new(),
        };
        Evidence { source, context_id, place }
    }
}

/// The judge's opinion on a claim.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::evaluate) struct Opinion {
    pub supported: bool,
    pub reason: String,
    /// Evidence for the claim.
    pub evidence: Vec<Evidence>,
    /// Whether the judge gave a quote that is in none of the sources.
    pub unverified: bool,
}

impl Opinion {
    /// Merges opinions over two groups of sources: one group is enough. None where a missing opinion decides.
    pub(in crate::evaluate) fn either(a: Option<Opinion>, b: Option<Opinion>) -> Option<Opinion> {
        let supports = |opinion: &Option<Opinion>| opinion.as_ref().is_some_and(|opinion| opinion.supported);
        match (supports(&a), supports(&b)) {
            (true, true) => a.zip(b).map(|(mut a, b)| {
                a.evidence.extend(b.evidence);
                a.unverified |= b.unverified;
                a
            }),
            (true, false) => a,
            (false, true) => b,
            (false, false) => a.zip(b).map(|(a, _)| a),
        }
    }

    /// Returns for each context whether it supports the claim; None where the judge does not say which contexts do.
    pub(in crate::evaluate) fn supporting(&self, contexts: usize) -> Option<Vec<bool>> {
        if self.supported && self.evidence.is_empty() {
            return None;
        }
        let named = |context| {
            self.evidence.iter().any(|evidence| evidence.source == EvidenceSource::RetrievedContext(context))
        };
        Some((0..contexts).map(|context| self.supported && named(context)).collect())
    }
}

/// A verdict with its quote found again: in the sources that the judge names, else in any other.
pub(super) fn opinion(verdict: ClaimVerdict, texts: &SourceTexts, haystacks: &[Haystack<'_>]) -> Opinion {
    let ClaimVerdict { reason, quote, sources, supported, .. } = verdict;
    if !supported.0 {
        return Opinion { supported: false, reason, evidence: Vec::new(), unverified: false };
    }
    let all = 0..texts.sources.len();
    let mut named: Vec<usize> = all.clone().filter(|&index| is_named(&sources, index)).collect();
    if texts.sources.len() == 1 {
        named = vec![0];
    }
    let found = |index: usize| {
        let haystack = &haystacks[index];
        let bytes = if quote.trim().is_empty() { None } else { haystack.locate(&quote) }?;
        Some(EvidenceRange { code_points: code_points(haystack.text(), bytes.clone()), bytes })
    };
    let mut evidence: Vec<Evidence> =
        named.iter().map(|&index| texts.evidence(index, found(index))).collect();
    if evidence.iter().all(|evidence| evidence.place.is_none()) {
        let elsewhere = all.filter(|index| !named.contains(index));
        let elsewhere = elsewhere.filter_map(|index| Some(texts.evidence(index, Some(found(index)?))));
        evidence.extend(elsewhere.take(1));
    }
    let unverified = evidence.iter().all(|evidence| evidence.place.is_none());
    Opinion { supported: true, reason, evidence, unverified }
}

fn is_named(sources: &[Id], index: usize) -> bool {
    sources.iter().any(|id| id.names(&format!("s{}", index + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evaluate::sample::Context, judge::lenient::Yes};

    fn texts(contexts: &[&str]) -> SourceTexts {
        let context = |text: &&str| Context { text: (*text).to_owned(), id: String::new() };
        let sample =
            Sample { retrieved_contexts: contexts.iter().map(context).collect(), ..Sample::default() };
        SourceTexts {
            sample: Arc::new(sample),
            sources: (0..contexts.len()).map(EvidenceSource::RetrievedContext).collect(),
        }
    }

    fn opinion(verdict: ClaimVerdict, texts: &SourceTexts) -> Opinion {
        super::opinion(verdict, texts, &texts.haystacks())
    }

    fn verdict(quote: &str, sources: &[&str], supported: bool) -> ClaimVerdict {
        ClaimVerdict {
            id: Id::new("c1"),
            reason: String::new(),
            quote: quote.to_owned(),
            sources: sources.iter().map(|id| Id::new(id)).collect(),
            supported: Yes(supported),
        }
    }

    #[test]
    fn a_quote_is_found_with_bytes_and_code_points_though_its_width_differs() {
        let texts = texts(&["无关的话。", "法国的首都是巴黎。"]);
        let opinion = opinion(verdict("首都是巴黎", &["s2"], true), &texts);
        let place = opinion.evidence[0].place.clone().expect("found");
        assert_eq!(&texts.text(1)[place.bytes], "首都是巴黎");
        assert_eq!(place.code_points, 3..8);
    }

    #[test]
    fn a_quote_from_nowhere_is_unverified_and_the_verdict_stands() {
        let opinion = opinion(verdict("made up", &["s1"], true), &texts(&["Paris is the capital."]));
        assert!(opinion.supported && opinion.unverified && opinion.evidence[0].place.is_none());
    }

    #[test]
    fn a_quote_that_stands_in_another_source_than_named_counts_for_both() {
        let opinion =
            opinion(verdict("is the capital", &["s1"], true), &texts(&["x", "Paris is the capital."]));
        assert_eq!(opinion.supporting(2), Some(vec![true, true]));
        assert!(!opinion.unverified);
    }

    #[test]
    fn support_from_nowhere_named_is_of_no_known_context() {
        let unnamed = opinion(verdict("", &[], true), &texts(&["a", "b"]));
        assert_eq!((unnamed.supported, unnamed.supporting(2)), (true, None));
        let not = opinion(verdict("", &["s1"], false), &texts(&["a", "b"]));
        assert_eq!(not.supporting(2), Some(vec![false, false]));
    }

    #[test]
    fn either_group_of_sources_is_enough_and_a_missing_one_is_no_no() {
        let (yes, no) = (verdict("", &["s1"], true), verdict("", &[], false));
        let texts = texts(&["a"]);
        let (yes, no) = (Some(opinion(yes, &texts)), Some(opinion(no, &texts)));
        assert!(Opinion::either(yes.clone(), None).is_some_and(|opinion| opinion.supported));
        assert!(Opinion::either(no.clone(), None).is_none());
        assert!(Opinion::either(no.clone(), no).is_some_and(|opinion| !opinion.supported));
    }
}
