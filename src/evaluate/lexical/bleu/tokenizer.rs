use crate::evaluate::text::{Language, detect};
use regex::Regex;
use std::sync::LazyLock;

/// sacrebleu's tokenizers, by its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BleuTokenizer {
    /// `zh` if the reference is Chinese, `13a` otherwise.
    #[default]
    Auto,
    /// `13a`: the rules of mteval-v13a, for languages with spaces.
    Mteval13a,
    /// `zh`: Chinese characters and marks one by one, `13a` for the rest.
    Chinese,
    /// `char`: every character.
    Characters,
    /// `intl`: the rules of mteval-v14, which know the marks of all scripts.
    International,
    /// `none`: what stands between white space.
    None,
}

static STEPS_13A: LazyLock<[TokenizerStep; 4]> = LazyLock::new(|| {
    [
        TokenizerStep::new(r"([{-~\[-` -&(-+:-@/])", " $1 "),
        TokenizerStep::new(r"([^0-9])([.,])", "$1 $2 "),
        TokenizerStep::new(r"([.,])([^0-9])", " $1 $2"),
        TokenizerStep::new(r"([0-9])(-)", "$1 $2 "),
    ]
});

static STEPS_INTERNATIONAL: LazyLock<[TokenizerStep; 3]> = LazyLock::new(|| {
    [
        TokenizerStep::new(r"(\P{N})(\p{P})", "$1 $2 "),
        TokenizerStep::new(r"(\p{P})(\P{N})", " $1 $2"),
        TokenizerStep::new(r"(\p{S})", " $1 "),
    ]
});

impl BleuTokenizer {
    /// All steps of the tokenizer.
    pub const ALL: [BleuTokenizer; 6] = [
        BleuTokenizer::Auto,
        BleuTokenizer::Mteval13a,
        BleuTokenizer::Chinese,
        BleuTokenizer::Characters,
        BleuTokenizer::International,
        BleuTokenizer::None,
    ];

    /// The tokenizer for texts of a language.
    pub fn of(language: Language) -> BleuTokenizer {
        match language {
            Language::Chinese => BleuTokenizer::Chinese,
            Language::English | Language::Other => BleuTokenizer::Mteval13a,
        }
    }

    pub(super) fn resolve(self, reference: &str) -> BleuTokenizer {
        if self == BleuTokenizer::Auto { BleuTokenizer::of(detect(reference)) } else { self }
    }

    pub(super) fn cut(self, text: &str) -> Vec<String> {
        let text = text.trim_end();
        match self.resolve(text) {
            BleuTokenizer::Auto | BleuTokenizer::Mteval13a => {
                split(&run(&*STEPS_13A, format!(" {} ", plain(text))))
            }
            BleuTokenizer::Chinese => split(&run(&*STEPS_13A, spaced_chinese(text.trim()))),
            BleuTokenizer::Characters => {
                text.chars().filter(|c| !c.is_whitespace()).map(String::from).collect()
            }
            BleuTokenizer::International => split(&run(&*STEPS_INTERNATIONAL, text.to_owned())),
            BleuTokenizer::None => split(text),
        }
    }
}

/// One replacement in a whole text.
struct TokenizerStep {
    pattern: Regex,
    replacement: &'static str,
}

impl TokenizerStep {
    fn new(pattern: &str, replacement: &'static str) -> TokenizerStep {
        let pattern = Regex::new(pattern).expect("the patterns are valid expressions");
        TokenizerStep { pattern, replacement }
    }
}

fn run(steps: &[TokenizerStep], text: String) -> String {
    steps.iter().fold(text, |text, step| step.pattern.replace_all(&text, step.replacement).into_owned())
}

fn split(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Without the markup of evaluation files.
fn plain(text: &str) -> String {
    let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
}

fn spaced_chinese(text: &str) -> String {
    let mut spaced = String::with_capacity(2 * text.len());
    for c in text.chars() {
        if is_chinese(c) {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }
    spaced
}

/// Chinese characters and marks as sacrebleu lists them. U+2001 to U+2A6D are in because its range for extension B has
/// five digits after `\u`, of which Python reads four.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{2001}'..='\u{2A6D}' | '\u{2E80}'..='\u{2FDF}' | '\u{2FF0}'..='\u{303F}' | '\u{3100}'..='\u{312F}'
        | '\u{31A0}'..='\u{31BF}' | '\u{31C0}'..='\u{31EF}' | '\u{3200}'..='\u{33FF}' | '\u{3400}'..='\u{4DB5}'
        | '\u{4E00}'..='\u{9FBB}' | '\u{F900}'..='\u{FA2D}' | '\u{FA30}'..='\u{FA6A}' | '\u{FA70}'..='\u{FAD9}'
        | '\u{FE10}'..='\u{FE1F}' | '\u{FE30}'..='\u{FE4F}' | '\u{FF00}'..='\u{FFEF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokenizer: BleuTokenizer, text: &str, expected: &str) {
        assert_eq!(tokenizer.cut(text).join(" "), expected, "{text:?}");
    }

    #[test]
    fn texts_are_cut_as_sacrebleu_does() {
        check(BleuTokenizer::Mteval13a, "Hello, world! 1,000.5 (x-y)", "Hello , world ! 1,000.5 ( x-y )");
        check(BleuTokenizer::Mteval13a, "a &amp; b &lt;c&gt;\n1990-95.", "a & b < c > 1990 - 95 .");
        check(BleuTokenizer::Chinese, "他说：“GPT-4很强。”", "他 说 ： “ GPT-4 很 强 。 ”");
        check(BleuTokenizer::Characters, "a b你", "a b 你");
        check(BleuTokenizer::International, "Hello, “world”—5€", "Hello , “ world ” —5 €");
        check(BleuTokenizer::None, " a,b  c\n", "a,b c");
        check(BleuTokenizer::Auto, "你好吗", "你 好 吗");
    }
}
