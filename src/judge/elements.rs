//! How many values a JSON text has, before they are read (pure).
//!
//! A value in memory takes up to 40 times its text: 4 MiB of `0,` or `{},` would take 150 MB and more.

/// Values of one answer. A verdict has some for each claim or context.
pub(super) const MAX_ELEMENTS: usize = 64 << 10;

/// Whether the text has more values than an answer may have. Commas and opening brackets outside of strings are
/// counted.
pub(super) fn are_too_many(json: &[u8]) -> bool {
    let (mut elements, mut in_string, mut is_escaped) = (0, false, false);
    for &byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => elements += 1,
            _ => {}
        }
    }
    elements > MAX_ELEMENTS
}

#[cfg(test)]
mod tests {
    use super::{MAX_ELEMENTS, are_too_many};

    #[test]
    fn values_are_counted_and_texts_are_not() {
        let check =
            |json: &str, expected| assert_eq!(are_too_many(json.as_bytes()), expected, "{:.40}", json);
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        check("", false);
        check(&list("0", MAX_ELEMENTS - 1), false);
        check(&list("0", MAX_ELEMENTS + 1), true);
        check(&list("{}", MAX_ELEMENTS / 2 + 1), true);
        check(&list("\"\\\"\"", MAX_ELEMENTS + 1), true);
        let words = ",[{".repeat(MAX_ELEMENTS);
        check(&format!("[\"{words}\", \"\\\\\"]"), false);
        check(&format!("[\"\\\"{words}\"]"), false);
    }
}
