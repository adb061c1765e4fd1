use super::{normalize, sentences};
use regex::{Regex, RegexSet};
use std::sync::LazyLock;

mod phrases;

/// A longer text says something, whatever else it says.
const LONGEST_CHARS: usize = 600;

static REFUSALS: LazyLock<RegexSet> = LazyLock::new(|| set(&phrases::REFUSALS));
static COURTESIES: LazyLock<RegexSet> = LazyLock::new(|| set(&phrases::COURTESIES));
static OPENINGS: LazyLock<Regex> = LazyLock::new(|| regex(&format!("^(?:{})+", phrases::OPENINGS.join("|"))));
static TURNS: LazyLock<Regex> = LazyLock::new(|| regex(phrases::TURNS));

/// Returns whether a text declines to answer, in English or Chinese: "I don't know", 抱歉，我无法回答这个问题, n/a.
///
/// True only if every clause of a short text is a refusal or a courtesy ("please let me know …"), one of them a
/// refusal. A text that says anything else, before or after "but", isn't one; a refusal in unusual words may be
/// missed. The rule is deterministic and knows nothing of the question.
pub fn is_refusal(text: &str) -> bool {
    if text.chars().count() > LONGEST_CHARS {
        return false;
    }
    let plain = normalize(text).replace(['’', '‘', '`'], "'");
    let clauses = sentences(&plain).into_iter().flat_map(|sentence| TURNS.split(&plain[sentence]));
    all_of(clauses.map(clause)) == PhraseKind::Refusal
}

/// The role of a clause, or of several together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PhraseKind {
    Courtesy,
    Refusal,
    /// The clause makes a statement.
    Content,
}

/// Content outweighs a refusal, which outweighs a courtesy.
fn all_of(kinds: impl Iterator<Item = PhraseKind>) -> PhraseKind {
    kinds.max().unwrap_or(PhraseKind::Courtesy)
}

/// A clause as a whole, or else what stands between its commas.
fn clause(text: &str) -> PhraseKind {
    match part(text) {
        PhraseKind::Content if text.contains(',') => all_of(text.split(',').map(part)),
        kind => kind,
    }
}

fn part(text: &str) -> PhraseKind {
    let is_mark = |c: char| !c.is_alphanumeric();
    let whole = text.trim_matches(is_mark);
    let body = OPENINGS.replace(whole, "");
    let body = body.trim_matches(is_mark);
    if [whole, body].into_iter().any(|text| REFUSALS.is_match(text)) {
        PhraseKind::Refusal
    } else if body.is_empty() || COURTESIES.is_match(body) {
        PhraseKind::Courtesy
    } else {
        PhraseKind::Content
    }
}

/// Each phrase is the whole of a clause.
fn set(phrases: &[&str]) -> RegexSet {
    let whole = phrases.iter().map(|phrase| format!("^(?:{phrase})$"));
    RegexSet::new(whole).expect("the phrases are valid expressions")
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the phrases are valid expressions")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[&str], expected: bool) {
        for text in texts {
            assert_eq!(is_refusal(text), expected, "{text:?}");
        }
    }

    #[test]
    fn english_refusals_are_recognised() {
        check(
            &[
                "I don't know.",
                "I don’t know",
                "I do not know the answer to that question.",
                "Sorry, I don't know.",
                "I'm sorry, but I can't help with that.",
                "I cannot answer this question.",
                "I can not answer based on the provided context.",
                "Unfortunately, I am unable to determine the date from the given documents.",
                "As an AI language model, I cannot provide medical advice.",
                "The provided context does not contain information about the release date.",
                "The context doesn't mention that.",
                "Based on the provided context, it is not possible to answer the question.",
                "There is not enough information to answer.",
                "There is no information about this in the documents.",
                "Not enough information.",
                "Unknown",
                "N/A",
                "No answer.",
                "I'm not sure.",
                "I have no idea.",
                "I couldn't find any information about that. Could you please rephrase your question?",
                "I don't have access to real-time data. Please let me know if I can help with something else!",
                "I'm afraid I cannot say, as the documents do not mention it.",
                "It cannot be determined from the text.",
                "The answer is not in the context.",
                "I don't have enough information to answer that.",
                "Cannot be determined.",
            ],
            true,
        );
    }

    #[test]
    fn english_answers_are_not() {
        check(
            &[
                "",
                "Paris.",
                "No.",
                "Yes, I know.",
                "I don't know the exact date, but it was in 1990.",
                "I'm not sure, but I think it is Paris.",
                "I don't know. The capital of France is Paris.",
                "The song \"I Don't Know\" was released in 1980.",
                "The witness said he could not answer the question.",
                "Sorry, the shop is closed on Mondays.",
                "I cannot recommend this film highly enough, it won six awards.",
                "I don't know anyone who dislikes Paris.",
                "The contract does not contain a warranty.",
                "Socrates said: I know that I know nothing.",
                "It is not possible to travel faster than light.",
                "There is no tax on books.",
                "The unknown soldier is buried in Paris.",
                "You cannot answer for others.",
                "I cannot find a job without experience, he said.",
                "Not all birds can fly.",
                "The source does not provide power.",
                "There is enough information to conclude that he won.",
                "Thank you.",
                "Please let me know.",
                "The drug is safe for adults. I don't know whether it is safe for children. Doses go up to 20 mg.",
            ],
            false,
        );
        check(&[&format!("I don't know{}.", " what to say about it".repeat(40))], false);
    }

    #[test]
    fn chinese_refusals_are_recognised() {
        check(
            &[
                "不知道",
                "我不知道。",
                "抱歉，我不知道。",
                "抱歉，我无法回答这个问题。",
                "很抱歉，我无法回答您的问题。",
                "对不起，我不能提供这方面的信息。",
                "根据提供的信息无法确定。",
                "根据所提供的上下文，无法回答该问题。",
                "无法确定",
                "提供的上下文中没有提到发布日期。",
                "上下文中未提及相关内容。",
                "文中没有说明。",
                "没有足够的信息来回答这个问题。",
                "信息不足，无法判断。",
                "我不太清楚这个问题的答案。",
                "我不确定。",
                "作为一个AI语言模型，我无法提供医疗建议。",
                "未知",
                "暂无相关信息。",
                "很遗憾，资料中没有相关信息。如有其他问题，请随时告诉我。",
                "抱歉，我没有找到相关的信息。",
                "抱歉，我無法回答這個問題。",
                "无可奉告",
                "不好意思，这个问题我无法回答。",
            ],
            true,
        );
    }

    #[test]
    fn chinese_answers_are_not() {
        check(
            &[
                "巴黎。",
                "不是。",
                "不可以。",
                "抱歉，商店周一休息。",
                "我不知道确切日期，但是大约在1990年。",
                "我不确定，不过我认为是巴黎。",
                "不知道。法国的首都是巴黎。",
                "不知道的人很多。",
                "无法回答这个问题的学生需要补考。",
                "证人表示无法回答该问题。",
                "根据法律规定，未成年人不能提供担保。",
                "歌曲《不知道》发行于1980年。",
                "未知数是5。",
                "合同中没有提到违约金，但法律规定了上限。",
                "根据上下文，首都是巴黎。",
                "信息不足会导致市场失灵。",
                "材料不包含石棉。",
                "内容不包括酒精。",
                "谢谢。",
                "该药对成人安全。我不知道对儿童是否安全。剂量最高20毫克。",
                "水的沸点是100度，无法确定高原上的数值。",
            ],
            false,
        );
    }
}
