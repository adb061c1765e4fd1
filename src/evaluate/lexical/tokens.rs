use super::Pair;
use crate::evaluate::text::{Language, characters, detect, normalize, words};

/// The tokens that a text is split into before it is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tokenization {
    /// As the language of the reference asks for: see [`Tokenization::of`].
    #[default]
    Auto,
    /// The metric's own tokens for English.
    English,
    /// Chinese characters one by one, and the words between them, of the normalized text.
    Characters,
    /// Words of the normalized text: by a dictionary in Chinese, by UAX 29 otherwise.
    Words,
}

impl Tokenization {
    /// These tokens, or those of the language where none are asked for.
    pub(super) fn or_those_of(self, language: Language) -> Tokenization {
        if self == Tokenization::Auto { Tokenization::of(language) } else { self }
    }

    /// English as the metric cuts it, Chinese by characters, other languages by words.
    pub fn of(language: Language) -> Tokenization {
        match language {
            Language::English => Tokenization::English,
            Language::Chinese => Tokenization::Characters,
            Language::Other => Tokenization::Words,
        }
    }

    /// The tokens of response and reference. Where neither has one, they are compared character by character.
    pub(super) fn cut(self, pair: Pair<'_>, english: impl Fn(&str) -> Vec<String>) -> [Vec<String>; 2] {
        let language = detect(pair.reference);
        let tokens = if self == Tokenization::Auto { Tokenization::of(language) } else { self };
        let texts = [pair.response, pair.reference];
        let cut = match tokens {
            Tokenization::Auto | Tokenization::English => texts.map(english),
            Tokenization::Characters => texts.map(|text| owned(characters(&normalize(text)))),
            Tokenization::Words => texts.map(|text| owned(words(&normalize(text), language))),
        };
        if cut.iter().all(Vec::is_empty) { texts.map(marks) } else { cut }
    }
}

fn owned(tokens: Vec<&str>) -> Vec<String> {
    tokens.into_iter().map(str::to_owned).collect()
}

/// The characters that are not white space, one by one.
fn marks(text: &str) -> Vec<String> {
    text.chars().filter(|c| !c.is_whitespace()).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: Tokenization, response: &str, reference: &str, expected: [&[&str]; 2]) {
        let english = |text: &str| owned(text.split_whitespace().collect());
        assert_eq!(tokens.cut(Pair { response, reference }, english), expected, "{response:?} {reference:?}");
    }

    #[test]
    fn the_language_of_the_reference_chooses() {
        check(
            Tokenization::Auto,
            "one two",
            "The capital is Paris",
            [&["one", "two"], &["The", "capital", "is", "Paris"]],
        );
        check(Tokenization::Auto, "GPT很强", "很强。", [&["gpt", "很", "强"], &["很", "强"]]);
        check(Tokenization::Auto, "Да!", "Нет, это не так", [&["да"], &["нет", "это", "не", "так"]]);
        check(
            Tokenization::Words,
            "人工智能",
            "人工智能改变世界",
            [&["人工智能"], &["人工智能", "改变", "世界"]],
        );
    }

    #[test]
    fn texts_of_marks_are_compared_mark_by_mark() {
        check(Tokenization::Characters, "!? 🎉", "🎉", [&["!", "?", "🎉"], &["🎉"]]);
    }
}
