//! A mind that compares texts and follows nobody's orders.

use serde_json::{Value, json};

use super::{Asked, honest};

/// Knows these facts. A claim is a fact that a text holds word for word, and a source supports it that holds it too.
pub fn comparing(facts: &'static [&'static str]) -> impl Fn(&Asked) -> Value + Send + Sync + 'static {
    move |asked| Reader { facts, asked }.answer()
}

struct Reader<'a> {
    facts: &'static [&'static str],
    asked: &'a Asked,
}

impl Reader<'_> {
    fn answer(&self) -> Value {
        match self.asked.verdict.as_deref().unwrap_or_default() {
            "claims" => json!({ "claims": self.facts_in(self.text("text")) }),
            "verification" => json!({ "verdicts": self.verification() }),
            "usefulness" => json!({ "verdicts": self.usefulness() }),
            "entities" => {
                let facts = self.facts_in(self.text("text")).into_iter();
                json!({ "entities": facts.filter_map(|fact| fact.split(' ').next()).collect::<Vec<_>>() })
            }
            "accuracy" => {
                let (response, reference) = (self.text("response"), self.text("reference"));
                json!({ "reason": "", "rating": 2 * self.degree(response, &[reference]) })
            }
            "relevance" => json!({ "reason": "", "rating": self.relevance() }),
            "aspect" => json!({ "reason": "", "verdict": !self.facts_in(self.text("response")).is_empty() }),
            "graded" => json!({ "reason": "", "score": self.facts_in(self.text("response")).len() }),
            "refusal" => json!({ "reason": "", "refusal": self.facts_in(self.text("response")).is_empty() }),
            _ => honest(self.asked),
        }
    }

    fn facts_in(&self, text: &str) -> Vec<&'static str> {
        self.facts.iter().copied().filter(|fact| text.contains(fact)).collect()
    }

    fn text(&self, name: &str) -> &str {
        self.asked.part(name).as_str().unwrap_or_default()
    }

    fn verification(&self) -> Vec<Value> {
        let sources = items(self.asked.part("sources"));
        let verdict = |(id, claim): (&str, &str)| {
            let holding = sources.iter().filter(|(_, text)| text.contains(claim));
            let ids: Vec<&str> = holding.map(|(id, _)| *id).collect();
            json!({ "id": id, "reason": "", "quote": claim, "supported": !ids.is_empty(), "sources": ids })
        };
        items(self.asked.part("claims")).into_iter().map(verdict).collect()
    }

    fn usefulness(&self) -> Vec<Value> {
        let answer = self.facts_in(self.text("answer"));
        let verdict = |(id, text): (&str, &str)| json!({ "id": id, "reason": "", "useful": answer.iter().any(|fact| text.contains(fact)) });
        items(self.asked.part("contexts")).into_iter().map(verdict).collect()
    }

    /// Of the response by the contexts, or, without one, how many contexts say anything.
    fn relevance(&self) -> u32 {
        let contexts: Vec<&str> = items(self.asked.part("contexts")).iter().map(|(_, text)| *text).collect();
        match self.asked.part("response").as_str() {
            Some(response) => self.degree(response, &contexts),
            None => {
                let telling = contexts.iter().filter(|text| !self.facts_in(text).is_empty()).count();
                of_two(telling, contexts.len())
            }
        }
    }

    /// How much of what the text says the others say too: 0 nothing, 1 something, 2 all.
    fn degree(&self, text: &str, others: &[&str]) -> u32 {
        let facts = self.facts_in(text);
        let known = facts.iter().filter(|fact| others.iter().any(|other| other.contains(**fact))).count();
        of_two(known, facts.len())
    }
}

fn of_two(part: usize, whole: usize) -> u32 {
    if part == 0 { 0 } else { 1 + u32::from(part == whole) }
}

/// Ids and texts.
fn items(list: &Value) -> Vec<(&str, &str)> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| Some((item["id"].as_str()?, item["text"].as_str()?))).collect()
}
