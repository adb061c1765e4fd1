//! Findings over tables of claims, which several metrics share.

use crate::evaluate::{
    finding::Finding,
    result::{Claim, ClaimOrigin, Evidence, Failure},
    score::Estimate,
    steps::{ClaimRow, ClaimTable, Side},
};

/// The finding of a metric that is the share of supported claims.
pub(super) fn share_of(table: &ClaimTable, estimate: Estimate, side: Side, by: &str) -> Finding {
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

/// The finding over claims of the response, verified by the reference, and of the reference, verified by the response.
pub(super) fn both_ways(response: &ClaimTable, reference: &ClaimTable) -> Finding {
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

/// The claims of a text, with their verdicts and evidence.
pub(super) fn claims(table: &ClaimTable, side: Side) -> Vec<Claim> {
    let (letter, origin) = match side {
        Side::Response => ('r', ClaimOrigin::Response),
        Side::Reference => ('g', ClaimOrigin::Reference),
    };
    let claim = |(index, row): (usize, &ClaimRow)| {
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

/// The failure because of which verdicts are missing, if any.
pub(super) fn first_failure(tables: &[&ClaimTable]) -> Option<Failure> {
    tables.iter().find_map(|table| table.failure.clone())
}

/// The name of a text in reasons.
pub(super) fn name(side: Side) -> &'static str {
    match side {
        Side::Response => "response",
        Side::Reference => "reference",
    }
}
