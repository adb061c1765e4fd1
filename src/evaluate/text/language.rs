use whatlang::Lang;

/// Above this share of kana among kana and Han, a text is Japanese.
const JAPANESE_KANA_SHARE: f64 = 0.05;

/// A Chinese word has about two characters: this many Han for each word of another script are as many words.
const HAN_PER_WORD: usize = 2;

/// The language of prompts and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Language {
    /// English, also where a text is too short to tell it from another language in plain Latin letters.
    English,
    /// Chinese, simplified or traditional.
    Chinese,
    /// Any other language, and texts without a letter.
    #[default]
    Other,
}

impl Language {
    /// The BCP 47 tag; `und` for an unknown language.
    pub fn tag(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::Chinese => "zh",
            Language::Other => "und",
        }
    }
}

/// Tells the language of a text, in this order:
///
/// 1. No letter at all: `Other`.
/// 2. Kana are over 5 % of kana and Han together (Japanese), or Hangul outnumber Han (Korean): `Other`.
/// 3. At least two Han for each word of another script, so that as many words are Chinese as are not: `Chinese`.
/// 4. Otherwise the trigrams of the words that aren't Han decide: English if they say so with confidence; not
///    English if they say that with confidence; and where they have none, as with a few words, English if every
///    letter is an ASCII letter.
pub fn detect(text: &str) -> Language {
    let letters = Letters::count(text);
    if letters.han + letters.kana + letters.hangul + letters.words == 0 {
        return Language::Other;
    }
    let kana_share = letters.kana as f64 / (letters.kana + letters.han).max(1) as f64;
    if kana_share > JAPANESE_KANA_SHARE || letters.hangul > letters.han {
        return Language::Other;
    }
    if letters.han > 0 && letters.han >= HAN_PER_WORD * letters.words {
        return Language::Chinese;
    }
    by_trigrams(text)
}

/// Returns whether `c` is a Chinese character: a Han ideograph of any block, or one of the two marks that stand for one.
pub(crate) fn is_han(c: char) -> bool {
    matches!(c,
        '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFD}' | '々' | '〇')
}

fn is_kana(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' | '\u{FF66}'..='\u{FF9F}')
        && c.is_alphabetic()
}

fn is_hangul(c: char) -> bool {
    matches!(c, '\u{AC00}'..='\u{D7A3}' | '\u{1100}'..='\u{11FF}' | '\u{3131}'..='\u{318E}')
}

#[derive(Default)]
struct Letters {
    han: usize,
    kana: usize,
    hangul: usize,
    /// Runs of letters of any other script.
    words: usize,
}

impl Letters {
    fn count(text: &str) -> Letters {
        let mut letters = Letters::default();
        let mut in_word = false;
        for c in text.chars() {
            let was_in_word = std::mem::replace(&mut in_word, false);
            match c {
                _ if is_han(c) => letters.han += 1,
                _ if is_kana(c) => letters.kana += 1,
                _ if is_hangul(c) => letters.hangul += 1,
                _ if c.is_alphabetic() => {
                    letters.words += usize::from(!was_in_word);
                    in_word = true;
                }
                // An apostrophe or a combining mark inside a word doesn't end it.
                _ => in_word = was_in_word && !c.is_whitespace() && !c.is_ascii_digit(),
            }
        }
        letters
    }
}

fn by_trigrams(text: &str) -> Language {
    // Many Han in an English text would make it a Chinese one for the library.
    let others: String = text.chars().map(|c| if is_han(c) { ' ' } else { c }).collect();
    let guess = whatlang::detect(&others);
    let is_plain = others.chars().filter(|c| c.is_alphabetic()).all(|c| c.is_ascii());
    match guess {
        Some(info) if info.is_reliable() && info.lang() != Lang::Eng => Language::Other,
        Some(info) if info.lang() == Lang::Eng => Language::English,
        _ if is_plain => Language::English,
        _ => Language::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Language) {
        assert_eq!(detect(text), expected, "{text:?}");
    }

    #[test]
    fn texts_of_one_language_are_told_however_short() {
        for text in ["yes", "Paris", "OK.", "I am begging pardon", "The capital of France is Paris.", "don't"]
        {
            check(text, Language::English);
        }
        for text in ["是", "巴黎。", "法国的首都是巴黎。", "臺灣的首都是臺北", "1949年10月1日", "〇"]
        {
            check(text, Language::Chinese);
        }
    }

    #[test]
    fn a_mixed_text_is_chinese_when_its_chinese_words_are_at_least_as_many() {
        for text in
            ["使用TensorFlow训练模型", "Apple 公司发布了 iPhone", "用 GPT-4 和 Llama 回答问题的效果更好"]
        {
            check(text, Language::Chinese);
        }
        for text in [
            "The term 人工智能 is AI",
            "The word 你好 means hello",
            "In Chinese, 谢谢 is how one says thanks.",
        ] {
            check(text, Language::English);
        }
    }

    #[test]
    fn japanese_korean_and_other_languages_are_other() {
        for text in [
            "こんにちは",
            "日本語の文章です。",
            "東京タワー",
            "한국의 수도는 서울이다.",
            "Столица Франции — Париж, и это знают все.",
            "Además de todo lo anteriormente dicho, también encontramos muchas otras cosas en el camino.",
            "Die Hauptstadt von Frankreich ist die schöne Stadt Paris, und das weiß eigentlich jeder Mensch.",
            "",
            "   \n",
            "42",
            "3.14 + 1,000 = ?!",
            "🎉🎉",
        ] {
            check(text, Language::Other);
        }
    }
}
