//! Metrics over the tables of claims.

use futures::future::{join, join3};

use super::{Assessment, Finding, Found, Sheet, Work};
use crate::evaluate::{
    judged::{
        answer_correctness, context_precision, context_recall, factual_correctness, faithfulness,
        hallucination,
        noise_sensitivity::{self, Mode},
    },
    result::{Claim, Evidence, Failure, Origin},
    sample::Field,
    steps::{Answers, Row, Side, Table},
    vector::cosine,
};

impl Assessment<'_> {
    pub(super) async fn faithfulness(&self, sheet: &mut Sheet) -> Found {
        let table = sheet.take(self.steps.by_contexts(Side::Response).await)?;
        Ok(Work::of(move || {
            share_of(&table, faithfulness::score(&table.supported()), Side::Response, "the contexts")
        }))
    }

    pub(super) async fn context_recall(&self, sheet: &mut Sheet) -> Found {
        let table = sheet.take(self.steps.by_contexts(Side::Reference).await)?;
        Ok(Work::of(move || {
            share_of(&table, context_recall::score(&table.supported()), Side::Reference, "the contexts")
        }))
    }

    /// By the reference, if it may be and there is one, or by the response.
    pub(super) async fn context_precision(&self, sheet: &mut Sheet, by_reference: bool) -> Found {
        let has_reference = self.fields.as_ref().is_ok_and(|fields| fields.has(Field::Reference));
        let side = if by_reference && has_reference { Side::Reference } else { Side::Response };
        let answers = sheet.take(self.steps.useful(side).await)?;
        Ok(Work::of(move || usefulness(&answers, side)))
    }

    pub(super) async fn answer_correctness(
        &self,
        sheet: &mut Sheet,
        options: &answer_correctness::Options,
    ) -> Found {
        let tables = join(self.steps.by_other(Side::Response), self.steps.by_other(Side::Reference));
        let answers = async {
            match options.similarity_weight > 0.0 {
                true => self.steps.answer_rows().await.map(Some),
                false => Ok(None),
            }
        };
        let ((response, reference), answers) = join(tables, answers).await;
        let (response, reference) = (sheet.take(response), sheet.take(reference));
        let (response, reference, answers, options) = (response?, reference?, answers?, options.clone());
        Ok(Work::of(move || {
            let answers = answers.as_deref();
            let similarity = answers.map_or(0.0, |answers| cosine(answers.rows.row(0), answers.rows.row(1)));
            let (supported, covered) = (response.supported(), reference.supported());
            let estimate = answer_correctness::score(&supported, &covered, similarity, &options);
            let finding = Finding { estimate: Some(estimate), ..both_ways(&response, &reference) };
            let is_cut = answers.is_some_and(|answers| answers.cut);
            noting_cut(finding.detail("similarity", similarity), is_cut)
        }))
    }

    pub(super) async fn factual_correctness(
        &self,
        sheet: &mut Sheet,
        options: &factual_correctness::Options,
    ) -> Found {
        let options = options.clone();
        if options.mode == factual_correctness::Mode::Precision {
            let table = sheet.take(self.steps.by_other(Side::Response).await)?;
            return Ok(Work::of(move || {
                let estimate = factual_correctness::score(&table.supported(), &[], &options);
                share_of(&table, estimate, Side::Response, "the reference")
            }));
        }
        let tables = join(self.steps.by_other(Side::Response), self.steps.by_other(Side::Reference)).await;
        let (response, reference) = (sheet.take(tables.0), sheet.take(tables.1));
        let (response, reference) = (response?, reference?);
        Ok(Work::of(move || {
            let (supported, covered) = (response.supported(), reference.supported());
            let estimate = factual_correctness::score(&supported, &covered, &options);
            Finding { estimate: Some(estimate), ..both_ways(&response, &reference) }
        }))
    }

    pub(super) async fn noise_sensitivity(&self, sheet: &mut Sheet, mode: Mode) -> Found {
        let tables = join3(
            self.steps.by_other(Side::Response),
            self.steps.by_contexts(Side::Response),
            self.steps.by_contexts(Side::Reference),
        );
        let (by_reference, by_contexts, reference) = tables.await;
        let taken = (sheet.take(by_reference), sheet.take(by_contexts), sheet.take(reference));
        let (by_reference, by_contexts, reference) = (taken.0?, taken.1?, taken.2?);
        let contexts = self.steps.sample.retrieved_contexts.len();
        Ok(Work::of(move || noise(&by_reference, &by_contexts, &reference, (contexts, mode))))
    }

    pub(super) async fn hallucination(&self, sheet: &mut Sheet) -> Found {
        let tables = join(self.steps.by_contexts(Side::Response), self.steps.by_other(Side::Response)).await;
        let (contexts, reference) = (sheet.take(tables.0), sheet.take(tables.1));
        let (contexts, reference) = (contexts?, reference?);
        Ok(Work::of(move || made_up(&contexts, &reference)))
    }
}

fn usefulness(answers: &Answers, side: Side) -> Finding {
    let useful: Vec<Option<bool>> = answers.iter().map(|answer| answer.as_ref().map(|a| a.verdict)).collect();
    let yes = useful.iter().filter(|verdict| **verdict == Some(true)).count();
    let claims = answers.iter().enumerate().map(|(index, answer)| Claim {
        id: format!("s{}", index + 1),
        origin: Origin::Context(index),
        text: String::new(),
        verdict: answer.as_ref().map(|answer| answer.verdict),
        reason: answer.as_ref().map(|answer| answer.reason.clone()).unwrap_or_default(),
        evidence: Vec::new(),
        evidence_unverified: false,
    });
    let reason = format!("{yes} of {} contexts were useful for the {}", useful.len(), name(side));
    let finding = Finding::of(context_precision::score(&useful), reason).counting(&useful);
    Finding { claims: claims.collect(), ..finding }
}

/// `reference` has the claims of the reference by the contexts, the others those of the response.
fn noise(
    by_reference: &Table,
    by_contexts: &Table,
    reference: &Table,
    (contexts, mode): (usize, Mode),
) -> Finding {
    let supporting = |row: &Row| row.opinion.as_ref().and_then(|opinion| opinion.supporting(contexts));
    let relevant: Vec<Option<Vec<bool>>> = reference.rows.iter().map(supporting).collect();
    let rows: Vec<noise_sensitivity::Row> = by_reference
        .rows
        .iter()
        .zip(&by_contexts.rows)
        .map(|(wrong, noise)| noise_sensitivity::Row {
            supported_by_reference: wrong.opinion.as_ref().map(|opinion| opinion.supported),
            supported_by: supporting(noise),
        })
        .collect();
    let wrong = rows.iter().filter(|row| row.supported_by_reference == Some(false)).count();
    let reason = format!("{wrong} of {} claims are not supported by the reference", rows.len());
    let estimate = noise_sensitivity::score(&rows, &relevant, contexts, mode);
    let finding = Finding::of(estimate, reason)
        .counting(&by_reference.supported())
        .counting(&rows.iter().map(|row| row.supported_by.as_ref()).collect::<Vec<_>>())
        .counting(&relevant);
    let failure = first_failure(&[by_reference, by_contexts, reference]);
    Finding { claims: claims(by_contexts, Side::Response), missing: failure, ..finding }
}

/// Claims of the response that neither the contexts nor the reference support.
fn made_up(contexts: &Table, reference: &Table) -> Finding {
    let (by_contexts, by_reference) = (contexts.supported(), reference.supported());
    let made_up: Vec<Option<bool>> =
        by_contexts.iter().zip(&by_reference).map(|(&c, &r)| hallucination::is_made_up(c, r)).collect();
    let mut claims = claims(contexts, Side::Response);
    for ((claim, row), made_up) in claims.iter_mut().zip(&reference.rows).zip(&made_up) {
        claim.verdict = *made_up;
        claim.evidence.extend(row.opinion.iter().flat_map(|opinion| opinion.evidence.clone()));
    }
    let yes = made_up.iter().filter(|verdict| **verdict == Some(true)).count();
    let reason = format!("{yes} of {} claims are supported by neither contexts nor reference", made_up.len());
    let finding = Finding::of(hallucination::score(&by_contexts, &by_reference), reason);
    let finding = finding.counting(&by_contexts).counting(&by_reference);
    Finding { claims, missing: first_failure(&[contexts, reference]), ..finding }
}

/// A metric that is the share of supported claims.
fn share_of(table: &Table, estimate: crate::evaluate::score::Estimate, side: Side, by: &str) -> Finding {
    let supported = table.supported();
    let yes = supported.iter().filter(|verdict| **verdict == Some(true)).count();
    // Without claims the estimate says why.
    let reason = match supported.len() {
        0 => String::new(),
        all => format!("{yes} of {all} claims of the {} are supported by {by}", name(side)),
    };
    let finding = Finding::of(estimate, reason).counting(&supported);
    Finding { claims: claims(table, side), missing: table.failure.clone(), ..finding }
}

/// Claims of the response by the reference, and of the reference by the response.
fn both_ways(response: &Table, reference: &Table) -> Finding {
    let (by_reference, by_response) = (response.supported(), reference.supported());
    let count = |verdicts: &[Option<bool>], of: bool| verdicts.iter().filter(|v| **v == Some(of)).count();
    let (tp, fp, missed) =
        (count(&by_reference, true), count(&by_reference, false), count(&by_response, false));
    let reason = format!(
        "{tp} of {} claims of the response are supported by the reference, {missed} of {} claims of the reference are \
         not in the response",
        by_reference.len(),
        by_response.len()
    );
    let mut claims = claims(response, Side::Response);
    claims.extend(self::claims(reference, Side::Reference));
    let finding =
        Finding { reason, claims, missing: first_failure(&[response, reference]), ..Finding::default() };
    let finding = finding.counting(&by_reference).counting(&by_response);
    finding
        .detail("true_positives", tp as f64)
        .detail("false_positives", fp as f64)
        .detail("false_negatives", missed as f64)
}

fn claims(table: &Table, side: Side) -> Vec<Claim> {
    let (letter, origin) = match side {
        Side::Response => ('r', Origin::Response),
        Side::Reference => ('g', Origin::Reference),
    };
    let claim = |(index, row): (usize, &Row)| {
        let opinion = row.opinion.as_ref();
        Claim {
            id: format!("{letter}{}", index + 1),
            origin,
            text: row.claim.clone(),
            verdict: opinion.map(|opinion| opinion.supported),
            reason: opinion.map(|opinion| opinion.reason.clone()).unwrap_or_default(),
            evidence: opinion.map_or_else(Vec::<Evidence>::new, |opinion| opinion.evidence.clone()),
            evidence_unverified: opinion.is_some_and(|opinion| opinion.unverified),
        }
    };
    table.rows.iter().enumerate().map(claim).collect()
}

fn first_failure(tables: &[&Table]) -> Option<Failure> {
    tables.iter().find_map(|table| table.failure.clone())
}

pub(super) fn noting_cut(mut finding: Finding, cut: bool) -> Finding {
    if cut {
        finding.reason.push_str("; a text was cut at its end to fit the embedding model");
    }
    finding
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Response => "response",
        Side::Reference => "reference",
    }
}
