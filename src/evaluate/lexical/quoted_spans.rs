//! Quoted spans: the share of a response's quotations that stand verbatim in one of the contexts. 0 to 1, higher is
//! better.
//!
//! Verbatim means after normalizing case, width and white space, whatever the apostrophes, and without the marks at the
//! quotation's ends. The idea is that of RAGAS's QuotedSpansAlignment, which scores 1 where nothing is quoted, takes
//! any two quotation marks for a pair, apostrophes too, counts a Chinese quotation as one word, and finds quotations
//! that begin in one context and end in the next.

use super::compare_or;
use crate::evaluate::{
    definition::Definition,
    finding::Found,
    metric::MetricType,
    steps::{Ledger, Steps},
};
use crate::evaluate::{
    pool::Length,
    sample::Field::{Response, RetrievedContexts},
};

use super::ngrams::ratio;
use crate::evaluate::{
    cancellation::{Cancellation, Cancelled},
    text::{characters, normalize},
};
use std::collections::HashMap;

/// Opening and closing marks. The straight ones are the same at both ends.
const PAIRS: [(char, char); 11] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('“', '”'),
    ('„', '“'),
    ('‘', '’'),
    ('「', '」'),
    ('『', '』'),
    ('《', '》'),
    ('«', '»'),
    ('＂', '＂'),
];

/// A mark that isn't closed within as many characters opens nothing.
const LONGEST_CHARS: usize = 1000;

/// The options of the metric.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotedSpans {
    /// The minimum words of a quotation, where a Chinese character is a word; default 3. Shorter ones are names and emphasis.
    pub min_words: usize,
}

impl Default for QuotedSpans {
    fn default() -> QuotedSpans {
        QuotedSpans { min_words: 3 }
    }
}

/// Quotations found in the contexts / quotations; `None` if the response quotes nothing.
pub fn score(response: &str, contexts: &[&str], options: &QuotedSpans) -> Option<f64> {
    Cancellation::unlimited(|cancellation| score_cancellable(response, contexts, options, cancellation))
}

/// Computes [`score`], but ends early once it is cancelled.
pub(in crate::evaluate) fn score_cancellable(
    response: &str,
    contexts: &[&str],
    options: &QuotedSpans,
    cancellation: Cancellation<'_>,
) -> Result<Option<f64>, Cancelled> {
    let spans: Vec<&str> = quotations(response)
        .into_iter()
        .filter(|span| characters(span).len() >= options.min_words.max(1))
        .collect();
    if spans.is_empty() {
        return Ok(None);
    }
    let mut sources = Vec::with_capacity(contexts.len());
    for context in contexts {
        cancellation.check()?;
        sources.push(plain(context));
    }
    // The same quotation is looked for once.
    let mut is_verbatim: HashMap<String, bool> = HashMap::new();
    let mut found = 0;
    for span in &spans {
        cancellation.check()?;
        let stands = |sought: &String| sources.iter().any(|source| source.contains(sought));
        let is_found = *is_verbatim.entry(plain(span)).or_insert_with_key(stands);
        found += usize::from(is_found);
    }
    Ok(Some(ratio(found, spans.len())))
}

/// The texts between quotation marks, in order. Of nested quotations only the outer one counts.
fn quotations(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let start = at + c.len_utf8();
        let closing = PAIRS.iter().find(|(opening, _)| *opening == c).map(|(_, closing)| *closing);
        match closing
            .filter(|_| c != '\'' || !ends_word(&text[..at]))
            .and_then(|mark| end(text, start, c, mark))
        {
            Some(end) => {
                found.push(text[start..end].trim_matches(|c: char| !c.is_alphanumeric()));
                at = end + text[end..].chars().next().map_or(0, char::len_utf8);
            }
            None => at = start,
        }
    }
    found
}

/// Where the quotation ends that begins at `start`. Straight marks never reach over a line; an apostrophe inside a word
/// ends nothing.
fn end(text: &str, start: usize, opening: char, closing: char) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text[start..].char_indices().take(LONGEST_CHARS).map(|(at, c)| (start + at, c)) {
        let is_apostrophe = matches!(c, '\'' | '’') && starts_word(&text[at + c.len_utf8()..]);
        match c {
            '\n' if opening == closing => return None,
            _ if c == closing && is_apostrophe => {}
            _ if c == closing && depth == 0 => return Some(at),
            _ if c == closing => depth -= 1,
            _ if c == opening => depth += 1,
            _ => {}
        }
    }
    None
}

/// After a letter, ' is an apostrophe and opens nothing; Chinese has none, but marks without spaces around them.
fn ends_word(text: &str) -> bool {
    text.ends_with(|c: char| c.is_alphanumeric() && c.is_ascii())
}

fn starts_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() && c.is_ascii())
}

fn plain(text: &str) -> String {
    normalize(text).replace(['’', '‘'], "'")
}

impl MetricType for QuotedSpans {
    const DEFINITION: &Definition = &Definition {
        name: "quoted_spans",
        needs: &[Response, RetrievedContexts],
        formula: "quotations of at least three words of the response that stand in a context / quotations; 「」, 《》 and “” quote too",
        source: "RAGAS, QuotedSpansAlignment",
        differs: "Without a quotation it is NOT_APPLICABLE, where RAGAS gives 1. A quotation ends with its own mark and \
                  stands in one context.",
        ..Definition::LEXICAL
    };

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let options = self.clone();
        compare_or("the response quotes nothing", steps, Length::Long, move |texts, cancellation| {
            let contexts = texts.sample.retrieved_contexts.iter();
            let contexts: Vec<&str> = contexts.map(|context| context.text.as_str()).collect();
            score_cancellable(&texts.sample.response, &contexts, &options, cancellation)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(response: &str, contexts: &[&str], expected: Option<f64>) {
        assert_eq!(score(response, contexts, &QuotedSpans::default()), expected, "{response:?}");
    }

    fn check_spans(text: &str, expected: &[&str]) {
        assert_eq!(quotations(text), expected, "{text:?}");
    }

    #[test]
    fn quotations_are_found_between_their_marks() {
        check_spans("He said \"it is red\" and “it is big,” then left.", &["it is red", "it is big"]);
        check_spans("他说：「首都是『巴黎』。」又见《红楼梦》。", &["首都是『巴黎", "红楼梦"]);
        check_spans("It's Tom's 'own little dog', isn't it? 'It's so.'", &["own little dog", "It's so"]);
        check_spans("‘It’s so’ «oui, c'est ça» `let x = 1`", &["It’s so", "oui, c'est ça", "let x = 1"]);
        check_spans("5\" and \nno end \" here", &[]);
        check_spans("“never closed", &[]);
        check_spans("“a “b c” d”", &["a “b c” d"]);
    }

    #[test]
    fn the_score_is_the_share_that_stands_in_a_context() {
        let contexts = ["Machine learning  models\nimprove accuracy by 15%.", "法国的首都是巴黎。"];
        check("It says \"machine learning models improve accuracy.\"", &contexts, Some(1.0));
        check("“法国的首都是巴黎”，“法国的首都是里昂”", &contexts, Some(0.5));
        check("\"improve accuracy by 15%. 法国的首都\"", &contexts, Some(0.0));
        check("“models don't improve it”", &["models don’t improve it"], Some(1.0));
        check("“any text at all”", &[], Some(0.0));
    }

    #[test]
    fn without_a_quotation_of_three_words_there_is_no_score() {
        check("Nothing is quoted, it's plain.", &["plain"], None);
        check("The \"big apple\" and 《红楼》", &["x"], None);
        check("", &[], None);
    }

    proptest! {
        #[test]
        fn a_score_is_a_share(response in "[a-c你好 '\"“”‘’「」\n]{0,30}|\\PC{0,30}", context in "[a-c你好 ]{0,20}", min_words in 0..4usize) {
            if let Some(score) = score(&response, &[&context], &QuotedSpans { min_words }) {
                prop_assert!((0.0..=1.0).contains(&score), "{}", score);
            }
        }

        #[test]
        fn what_is_quoted_from_a_context_is_found(context in "[a-c你好]{3,6} [a-c你好]{1,6} [a-c]{1,6}") {
            prop_assert_eq!(score(&format!("“{context}”"), &[&context], &QuotedSpans::default()), Some(1.0));
        }
    }
}
