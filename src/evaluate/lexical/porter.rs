//! Porter's stemmer for English, in the form that NLTK gives it and ROUGE is computed with.
//!
//! Source: Porter 1980, "An algorithm for suffix stripping"; NLTK's `PorterStemmer` in its mode NLTK_EXTENSIONS.

const POSITIVE: Condition = Condition::MeasureAbove(0);
const ABOVE_ONE: Condition = Condition::MeasureAbove(1);

/// Words that the rules would get wrong.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

const STEP_2: [Rule; 22] = [
    Rule("ational", "ate", POSITIVE),
    Rule("tional", "tion", POSITIVE),
    Rule("enci", "ence", POSITIVE),
    Rule("anci", "ance", POSITIVE),
    Rule("izer", "ize", POSITIVE),
    Rule("bli", "ble", POSITIVE),
    Rule("alli", "al", POSITIVE),
    Rule("entli", "ent", POSITIVE),
    Rule("eli", "e", POSITIVE),
    Rule("ousli", "ous", POSITIVE),
    Rule("ization", "ize", POSITIVE),
    Rule("ation", "ate", POSITIVE),
    Rule("ator", "ate", POSITIVE),
    Rule("alism", "al", POSITIVE),
    Rule("iveness", "ive", POSITIVE),
    Rule("fulness", "ful", POSITIVE),
    Rule("ousness", "ous", POSITIVE),
    Rule("aliti", "al", POSITIVE),
    Rule("iviti", "ive", POSITIVE),
    Rule("biliti", "ble", POSITIVE),
    Rule("fulli", "ful", POSITIVE),
    Rule("logi", "log", Condition::PositiveWithNextLetter),
];

const STEP_3: [Rule; 7] = [
    Rule("icate", "ic", POSITIVE),
    Rule("ative", "", POSITIVE),
    Rule("alize", "al", POSITIVE),
    Rule("iciti", "ic", POSITIVE),
    Rule("ical", "ic", POSITIVE),
    Rule("ful", "", POSITIVE),
    Rule("ness", "", POSITIVE),
];

const STEP_4: [Rule; 19] = [
    Rule("al", "", ABOVE_ONE),
    Rule("ance", "", ABOVE_ONE),
    Rule("ence", "", ABOVE_ONE),
    Rule("er", "", ABOVE_ONE),
    Rule("ic", "", ABOVE_ONE),
    Rule("able", "", ABOVE_ONE),
    Rule("ible", "", ABOVE_ONE),
    Rule("ant", "", ABOVE_ONE),
    Rule("ement", "", ABOVE_ONE),
    Rule("ment", "", ABOVE_ONE),
    Rule("ent", "", ABOVE_ONE),
    Rule("ion", "", Condition::AboveOneAfterSOrT),
    Rule("ou", "", ABOVE_ONE),
    Rule("ism", "", ABOVE_ONE),
    Rule("ate", "", ABOVE_ONE),
    Rule("iti", "", ABOVE_ONE),
    Rule("ous", "", ABOVE_ONE),
    Rule("ive", "", ABOVE_ONE),
    Rule("ize", "", ABOVE_ONE),
];

/// The stem of a word in lower-case ASCII letters and digits; any other word comes back as it is.
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 || !word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return word.to_owned();
    }
    let word = without_participle(without_plural(word.to_owned()));
    let word = apply(&STEP_2, doubly_derived(with_final_i(word)));
    let word = apply(&STEP_4, apply(&STEP_3, word));
    without_double_l(without_final_e(word))
}

/// An ending, what replaces it, and what must hold of the stem before it.
struct Rule(&'static str, &'static str, Condition);

enum Condition {
    MeasureAbove(usize),
    /// The first letter of the ending counts with the stem: geo-logi, not only archaeo-logi.
    PositiveWithNextLetter,
    AboveOneAfterSOrT,
}

impl Condition {
    fn holds(&self, word: &str, stem: &str) -> bool {
        match self {
            Condition::MeasureAbove(least) => measure(stem) > *least,
            Condition::PositiveWithNextLetter => measure(&word[..=stem.len()]) > 0,
            Condition::AboveOneAfterSOrT => measure(stem) > 1 && stem.ends_with(['s', 't']),
        }
    }
}

/// The first rule whose ending the word has decides, whether its condition holds or not.
fn apply(rules: &[Rule], word: String) -> String {
    for Rule(ending, replacement, condition) in rules {
        if let Some(stem) = word.strip_suffix(ending) {
            return if condition.holds(&word, stem) { stem.to_owned() + replacement } else { word };
        }
    }
    word
}

/// Step 1a.
fn without_plural(mut word: String) -> String {
    let dropped = match word.as_str() {
        _ if word.ends_with("ies") && word.len() == 4 => 1,
        _ if word.ends_with("sses") || word.ends_with("ies") => 2,
        _ if word.ends_with('s') && !word.ends_with("ss") => 1,
        _ => 0,
    };
    word.truncate(word.len() - dropped);
    word
}

/// Step 1b.
fn without_participle(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return stem.to_owned() + if word.len() == 4 { "ie" } else { "i" };
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { stem.to_owned() + "ee" } else { word };
    }
    let has_vowel = |stem: &&str| consonants(stem).contains(&false);
    match word.strip_suffix("ed").or_else(|| word.strip_suffix("ing")).filter(has_vowel) {
        Some(stem) => mended(stem),
        None => word,
    }
}

/// What a participle's stem is without its ending: hop(p)ing, fil(e)ing.
fn mended(stem: &str) -> String {
    let is_double = stem.len() >= 2
        && stem.as_bytes()[stem.len() - 1] == stem.as_bytes()[stem.len() - 2]
        && consonants(stem).last() == Some(&true);
    if ["at", "bl", "iz"].iter().any(|ending| stem.ends_with(ending)) {
        return stem.to_owned() + "e";
    }
    if is_double {
        let kept = if stem.ends_with(['l', 's', 'z']) { stem } else { &stem[..stem.len() - 1] };
        return kept.to_owned();
    }
    if measure(stem) == 1 && ends_short(stem) { stem.to_owned() + "e" } else { stem.to_owned() }
}

/// Step 1c.
fn with_final_i(mut word: String) -> String {
    let stem = word.strip_suffix('y').filter(|stem| stem.len() > 1 && consonants(stem).last() == Some(&true));
    if stem.is_some() {
        word.pop();
        word.push('i');
    }
    word
}

/// The part of step 2 that runs before its rules: radically is radical first.
fn doubly_derived(mut word: String) -> String {
    while let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        word = stem.to_owned() + "al";
    }
    word
}

/// Step 5a.
fn without_final_e(mut word: String) -> String {
    let is_dropped = |stem: &str| measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem));
    if word.strip_suffix('e').is_some_and(is_dropped) {
        word.pop();
    }
    word
}

/// Step 5b.
fn without_double_l(mut word: String) -> String {
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
    word
}

/// For each letter whether it is a consonant: not a, e, i, o, u, and not a y after a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut kinds: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        let is_consonant = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => kinds.last() != Some(&true),
            _ => true,
        };
        kinds.push(is_consonant);
    }
    kinds
}

/// Porter's m: how often a consonant follows a vowel.
fn measure(stem: &str) -> usize {
    consonants(stem).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

/// Consonant, vowel, consonant other than w, x and y; or a whole word of vowel and consonant.
fn ends_short(word: &str) -> bool {
    match *consonants(word) {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, expected: &str) {
        assert_eq!(stem(word), expected, "{word}");
    }

    #[test]
    fn words_are_stemmed_step_by_step() {
        check("caresses", "caress");
        check("ponies", "poni");
        check("dies", "die");
        check("agreed", "agre");
        check("hopping", "hop");
        check("filing", "file");
        check("happy", "happi");
        check("enjoy", "enjoy");
        check("relational", "relat");
        check("generalizations", "gener");
        check("archaeology", "archaeolog");
        check("adoption", "adopt");
        check("controlling", "control");
        check("skies", "sky");
        check("1990s", "1990");
        check("is", "is");
        check("Étude", "Étude");
    }
}
