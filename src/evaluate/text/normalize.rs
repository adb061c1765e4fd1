use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;

/// Makes texts comparable: NFKC with full case folding, runs of white space one space, none at the ends.
///
/// Full-width letters, ligatures and unit signs become plain letters; ß becomes ss; ς and σ are one. Case is folded
/// twice around the decomposition, as compatibility caseless matching demands, so that the result is a fixed point.
/// Source: The Unicode Standard, section 3.13, definition D146.
pub fn normalize(text: &str) -> String {
    let folded = text.nfd().default_case_fold().nfkd().default_case_fold().nfkc();
    fold_white_space(folded)
}

fn fold_white_space(chars: impl Iterator<Item = char>) -> String {
    let mut folded = String::new();
    let mut is_space_due = false;
    for c in chars {
        if c.is_whitespace() {
            is_space_due = !folded.is_empty();
            continue;
        }
        if std::mem::take(&mut is_space_due) {
            folded.push(' ');
        }
        folded.push(c);
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(normalize(text), expected, "{text:?}");
    }

    #[test]
    fn width_case_ligatures_and_white_space_no_longer_tell_texts_apart() {
        check("ＡＢＣ１２３", "abc123");
        check("ﬁnancial", "financial");
        check("5㎏", "5kg");
        check("Straße", "strasse");
        check("ΣΊΣΥΦΟΣ", "σίσυφοσ");
        check("cafe\u{301}", "café");
        check("  a\t\r\n b\u{3000}c ", "a b c");
        check("你好，世界！", "你好,世界!");
        check("　", "");
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(text in any::<String>()) {
            let once = normalize(&text);
            prop_assert_eq!(normalize(&once), once);
        }
    }
}
