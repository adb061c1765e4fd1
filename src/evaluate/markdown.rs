//! docs/METRICS.md, from the table.

use super::{
    definition::{Definition, MetricFamily},
    metrics,
};

/// The whole page.
pub fn markdown() -> String {
    let definitions: Vec<&Definition> = metrics::METRICS.iter().map(|entry| entry.definition).collect();
    let families = [
        (MetricFamily::Judged, "Metrics that ask the judge", JUDGED),
        (MetricFamily::Lexical, "Metrics that compare texts", LEXICAL),
        (MetricFamily::Vector, "Metrics that compare vectors", VECTOR),
    ];
    let chapter = |(family, title, about): &(MetricFamily, &str, &str)| {
        let metrics = definitions.iter().filter(|definition| definition.family == *family);
        format!(
            "\n## {title}\n\n{about}{}",
            metrics.map(|definition| section(definition)).collect::<String>()
        )
    };
    HEAD.to_owned() + &families.iter().map(chapter).collect::<String>()
}

const HEAD: &str = "# Metrics

Made by `assay metrics` from the table that ListMetrics serves.

A result has a score only where its status is OK. PARTIAL has a lower and an upper bound instead: the score if every
verdict that is missing were the worst, and if it were the best. No result is ever NaN. Differences from RAGAS were
seen with version 0.4.3.
";

const JUDGED: &str = "The judge is a language model that the operator configures. What several metrics need of it is \
asked once: the claims of a text, their support by the contexts, their support by the other text, and the usefulness \
of the contexts. So faithfulness, context_recall, context_precision, noise_sensitivity, answer_correctness and \
factual_correctness together take 7 calls, two after one another. Texts that are too long for one question take more.
";

const LEXICAL: &str =
    "They need no judge. Chinese is cut into characters, or into words where an option says so; \
identical texts score 1 in either language.
";

const VECTOR: &str =
    "They need no judge, but the server's own embedding model. Scores of different models cannot be \
compared.
";

fn section(definition: &Definition) -> String {
    let Definition { name, formula, source, differs, version, .. } = definition;
    let mut lines = vec![
        format!("\n### {name}\n"),
        format!("{formula}."),
        format!("\n- needs: {}", definition.required_fields().join(", ")),
        format!("- {}", range(definition)),
    ];
    if definition.judge_calls > 0 {
        lines.push(format!("- judge calls, taken alone: {}", definition.judge_calls));
    }
    if definition.embeddings && definition.family != MetricFamily::Vector {
        lines.push("- needs the embedding model too".to_owned());
    }
    if !definition.options_field.is_empty() {
        lines.push(format!("- options: `{}`", definition.options_field));
    }
    if !definition.in_groups {
        lines.push("- asked for by name; groups don't hold it".to_owned());
    }
    lines.push(format!("- source: {source}; version {version} of the definition"));
    if !differs.is_empty() {
        lines.push(format!("- differs: {differs}"));
    }
    lines.join("\n") + "\n"
}

fn range(definition: &Definition) -> String {
    let direction = match definition.higher_is_better {
        Some(true) => "higher is better",
        Some(false) => "lower is better",
        None => "neither end is better",
    };
    format!("range: {} to {}, {direction}", definition.lowest, definition.highest)
}
