//! Counts the values of a JSON text before it is parsed (pure).
//!
//! A parsed value takes up to 40 times the memory of its text: 4 MiB of `0,` or `{},` would take over 150 MB.

/// Maximum number of values in one answer. A verdict has a few per claim or context.
pub(super) const MAX_VALUES: usize = 64 << 10;

/// Whether the text has more than [`MAX_VALUES`] values. Counts commas and opening brackets outside of strings.
pub(super) fn exceeds_limit(json: &[u8]) -> bool {
    let (mut values, mut in_string, mut is_escaped) = (0, false, false);
    for &byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values > MAX_VALUES
}

#[cfg(test)]
mod tests {
    use super::{MAX_VALUES, exceeds_limit};

    #[test]
    fn commas_and_brackets_inside_strings_are_not_counted() {
        let check =
            |json: &str, expected| assert_eq!(exceeds_limit(json.as_bytes()), expected, "{:.40}", json);
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        check("", false);
        check(&list("0", MAX_VALUES - 1), false);
        check(&list("0", MAX_VALUES + 1), true);
        check(&list("{}", MAX_VALUES / 2 + 1), true);
        check(&list("\"\\\"\"", MAX_VALUES + 1), true);
        let words = ",[{".repeat(MAX_VALUES);
        check(&format!("[\"{words}\", \"\\\\\"]"), false);
        check(&format!("[\"\\\"{words}\"]"), false);
    }
}
