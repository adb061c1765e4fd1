//! Repairs JSON as models write it (pure).
//!
//! A single pass from an opening bracket follows the grammar, so it stops early in prose and respects strings. Valid
//! JSON keeps its value. It repairs trailing commas, quotes that are single, curly or missing around keys, Python
//! literals, full-width punctuation, and raw line breaks and unknown escapes in strings.

use std::fmt::Write;

use self::Expected::{Colon, CommaOrEnd, KeyAfterComma, KeyOrEnd, Value, ValueAfterComma, ValueOrEnd};

/// Maximum nesting depth.
const MAX_DEPTH: usize = 64;

/// Result of a repair. Positions are bytes from the start of the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Repaired {
    /// A complete value that ends at `end`.
    Complete { json: String, end: usize },
    /// The text ended before the value. `closed` is the value with brackets added, if nothing else is missing.
    Unclosed { closed: Option<String>, is_json: bool },
    /// The text at `at` is not JSON. `is_json` is true if a key or an element was read before it.
    Invalid { at: usize, is_json: bool },
}

/// Rule for the double quote that ends a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quotes {
    /// The next quote, as in JSON.
    Strict,
    /// The next quote before a colon, a comma or a bracket, for strings with unescaped quotes.
    Loose,
}

/// Repairs the object or array whose opening bracket is at `start`.
pub(super) fn repair(text: &str, start: usize, quotes: Quotes) -> Repaired {
    let mut repairer =
        Repairer { text, quotes, at: start, json: String::new(), open: Vec::new(), is_json: false };
    let mut expected = Value;
    loop {
        repairer.skip_space();
        let Some(c) = repairer.peek() else { return repairer.ended(expected) };
        match repairer.step(c, expected) {
            Ok(next) => expected = next,
            Err(RepairStop::End) => return Repaired::Unclosed { closed: None, is_json: repairer.is_json },
            Err(RepairStop::Invalid) => {
                return Repaired::Invalid { at: repairer.at, is_json: repairer.is_json };
            }
        }
        if repairer.open.is_empty() {
            return Repaired::Complete { json: repairer.json, end: repairer.at };
        }
    }
}

/// Whether `c` opens an object or an array.
pub(super) fn starts_value(c: char) -> bool {
    Bracket::opening(c).is_some()
}

#[derive(Clone, Copy)]
enum Expected {
    Value,
    ValueOrEnd,
    /// A comma was read; it is written when a value follows.
    ValueAfterComma,
    KeyOrEnd,
    KeyAfterComma,
    Colon,
    CommaOrEnd,
}

enum RepairStop {
    End,
    Invalid,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Object,
    Array,
}

impl Bracket {
    fn opening(c: char) -> Option<Bracket> {
        match c {
            '{' | '｛' => Some(Bracket::Object),
            '[' | '［' => Some(Bracket::Array),
            _ => None,
        }
    }

    fn closing(c: char) -> Option<Bracket> {
        match c {
            '}' | '｝' => Some(Bracket::Object),
            ']' | '］' => Some(Bracket::Array),
            _ => None,
        }
    }

    fn end(self) -> char {
        match self {
            Bracket::Object => '}',
            Bracket::Array => ']',
        }
    }
}

struct Repairer<'a> {
    text: &'a str,
    quotes: Quotes,
    at: usize,
    json: String,
    open: Vec<Bracket>,
    is_json: bool,
}

impl<'a> Repairer<'a> {
    fn step(&mut self, c: char, expected: Expected) -> Result<Expected, RepairStop> {
        let may_end = !matches!(expected, Value | Colon);
        match expected {
            _ if may_end && Bracket::closing(c).is_some() => self.close(c),
            Value | ValueOrEnd => self.value(c),
            KeyOrEnd => self.key(c),
            ValueAfterComma => {
                self.json.push(',');
                self.value(c)
            }
            KeyAfterComma => {
                self.json.push(',');
                self.key(c)
            }
            Colon => {
                self.mark(c, [':', '：'])?;
                self.json.push(':');
                self.is_json = true;
                Ok(Value)
            }
            CommaOrEnd => {
                self.mark(c, [',', '，'])?;
                let in_object = self.open.last() == Some(&Bracket::Object);
                Ok(if in_object { KeyAfterComma } else { ValueAfterComma })
            }
        }
    }

    fn mark(&mut self, c: char, marks: [char; 2]) -> Result<(), RepairStop> {
        if !marks.contains(&c) {
            return Err(RepairStop::Invalid);
        }
        self.at += c.len_utf8();
        Ok(())
    }

    fn close(&mut self, c: char) -> Result<Expected, RepairStop> {
        if self.open.last().copied() != Bracket::closing(c) {
            return Err(RepairStop::Invalid);
        }
        self.at += c.len_utf8();
        self.json.extend(self.open.pop().map(Bracket::end));
        self.is_json = true;
        Ok(CommaOrEnd)
    }

    fn value(&mut self, c: char) -> Result<Expected, RepairStop> {
        if let Some(bracket) = Bracket::opening(c) {
            return self.open(c, bracket);
        }
        if let Some(ends) = ends_of(c) {
            self.string(c, ends, &[',', '，', '}', '｝', ']', '］'])?;
        } else if c == '-' || c.is_ascii_digit() {
            let number = self.take(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            self.json.push_str(number);
        } else {
            let start = self.at;
            let word = self.take(|c| c.is_alphanumeric() || c == '_');
            let Some(literal) = literal(word) else {
                self.at = start;
                return Err(RepairStop::Invalid);
            };
            self.json.push_str(literal);
        }
        self.is_json = true;
        Ok(CommaOrEnd)
    }

    fn open(&mut self, c: char, bracket: Bracket) -> Result<Expected, RepairStop> {
        if self.open.len() == MAX_DEPTH {
            return Err(RepairStop::Invalid);
        }
        self.at += c.len_utf8();
        self.open.push(bracket);
        self.json.push(if bracket == Bracket::Object { '{' } else { '[' });
        Ok(if bracket == Bracket::Object { KeyOrEnd } else { ValueOrEnd })
    }

    fn key(&mut self, c: char) -> Result<Expected, RepairStop> {
        if let Some(ends) = ends_of(c) {
            self.string(c, ends, &[':', '：'])?;
            return Ok(Colon);
        }
        let word = self.take(|c| c.is_alphanumeric() || c == '_' || c == '-');
        if word.is_empty() {
            return Err(RepairStop::Invalid);
        }
        self.json.extend(["\"", word, "\""]);
        Ok(Colon)
    }

    /// Reads a string. `ends` are the quotes that may end it, `after` the characters that follow its end.
    fn string(&mut self, opening: char, ends: &[char], after: &[char]) -> Result<(), RepairStop> {
        let is_plain = opening == '"' && self.quotes == Quotes::Strict;
        self.at += opening.len_utf8();
        self.json.push('"');
        while let Some(c) = self.peek() {
            self.at += c.len_utf8();
            match c {
                '\\' => self.escape()?,
                _ if ends.contains(&c) && (is_plain || self.is_followed_by(after)) => {
                    self.json.push('"');
                    return Ok(());
                }
                '"' => self.json.push_str("\\\""),
                '\0'..='\u{1f}' => self.write_escaped(u32::from(c)),
                _ => self.json.push(c),
            }
        }
        Err(RepairStop::End)
    }

    /// Reads an escape. Unknown escapes keep their backslash, as in formulas and paths.
    fn escape(&mut self) -> Result<(), RepairStop> {
        let c = self.peek().ok_or(RepairStop::End)?;
        self.at += c.len_utf8();
        match c {
            '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => self.json.extend(['\\', c]),
            '\'' => self.json.push(c),
            '\n' => self.json.push_str("\\n"),
            'u' => self.unicode_escape(),
            '\0'..='\u{1f}' => self.write_escaped(u32::from(c)),
            _ => self.json.extend(['\\', '\\', c]),
        }
        Ok(())
    }

    /// Reads a `\u` escape. An unpaired surrogate becomes U+FFFD.
    fn unicode_escape(&mut self) {
        let Some(unit) = self.hex_unit(self.at) else { return self.json.push_str("\\\\u") };
        self.at += 4;
        let is_pair = (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with("\\u");
        let low = is_pair.then(|| self.hex_unit(self.at + 2)).flatten();
        if let Some(low) = low.filter(|low| (0xdc00..0xe000).contains(low)) {
            self.at += 6;
            self.write_escaped(unit);
            self.write_escaped(low);
        } else {
            self.write_escaped(if char::from_u32(unit).is_some() { unit } else { 0xfffd });
        }
    }

    fn hex_unit(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at..at + 4)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    }

    fn write_escaped(&mut self, unit: u32) {
        let _ = write!(self.json, "\\u{unit:04x}");
    }

    fn is_followed_by(&self, signs: &[char]) -> bool {
        self.text[self.at..].chars().find(|c| !is_space(*c)).is_none_or(|c| signs.contains(&c))
    }

    fn take(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let word = &rest[..rest.find(|c| !belongs(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    fn skip_space(&mut self) {
        self.take(is_space);
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn ended(mut self, expected: Expected) -> Repaired {
        let lacks_brackets_alone = matches!(expected, CommaOrEnd | KeyAfterComma | ValueAfterComma);
        self.json.extend(self.open.iter().rev().map(|bracket| bracket.end()));
        Repaired::Unclosed { closed: lacks_brackets_alone.then_some(self.json), is_json: self.is_json }
    }
}

/// Quotes that may end a string opened by `quote`; models pair them loosely.
fn ends_of(quote: char) -> Option<&'static [char]> {
    match quote {
        '"' => Some(&['"']),
        '\'' => Some(&['\'']),
        '“' | '”' => Some(&['”', '“', '"']),
        '‘' | '’' => Some(&['’', '‘', '\'']),
        '＂' => Some(&['＂']),
        _ => None,
    }
}

fn literal(word: &str) -> Option<&'static str> {
    match word {
        "true" | "True" | "TRUE" => Some("true"),
        "false" | "False" | "FALSE" => Some("false"),
        "null" | "None" | "NULL" | "undefined" | "NaN" => Some("null"),
        "yes" | "Yes" => Some("\"yes\""),
        "no" | "No" => Some("\"no\""),
        "是" => Some("\"是\""),
        "否" => Some("\"否\""),
        _ => None,
    }
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn check(text: &str, expected: Value) {
        let Repaired::Complete { json, end } = repair(text, 0, Quotes::Strict) else {
            panic!("not whole: {text}")
        };
        assert_eq!(serde_json::from_str::<Value>(&json).expect(&json), expected, "{text}");
        assert_eq!(end, text.len());
    }

    fn check_broken(text: &str, at: usize, is_json: bool) {
        assert_eq!(repair(text, 0, Quotes::Strict), Repaired::Invalid { at, is_json }, "{text}");
    }

    fn check_open(text: &str, closed: Option<&str>) {
        match repair(text, 0, Quotes::Strict) {
            Repaired::Unclosed { closed: found, .. } => assert_eq!(found.as_deref(), closed, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn common_errors_are_repaired() {
        check(r#"{"a": [1, 2,], }"#, json!({ "a": [1, 2] }));
        check(r"{'a': 'it's', 'b': 'c'}", json!({ "a": "it's", "b": "c" }));
        check(
            r#"{a: True, b_1: False, c-d: None, 键: 1}"#,
            json!({ "a": true, "b_1": false, "c-d": null, "键": 1 }),
        );
        check("｛“verdict”：“是”，“n”：1｝", json!({ "verdict": "是", "n": 1 }));
        check("{\"a\"：“他说“好”吧”，\"b\": ［1，2］}", json!({ "a": "他说“好”吧", "b": [1, 2] }));
        check("{\"a\": \"two\nlines\", \"b\": \"\t\"}", json!({ "a": "two\nlines", "b": "\t" }));
        check(r#"{"a": "\frac \d \' \x \u12"}"#, json!({ "a": "\u{c}rac \\d ' \\x \\u12" }));
        check(r#"{"a": "\ud83d\ude00 \ud83d x \ude00"}"#, json!({ "a": "😀 \u{fffd} x \u{fffd}" }));
        check(r#"{"verdict": 是, "other": no}"#, json!({ "verdict": "是", "other": "no" }));
        check("{}", json!({}));
        check("[ ]", json!([]));
    }

    #[test]
    fn brackets_and_quotes_in_strings_are_text() {
        check(r#"{"a": "}{][,:", "b": "\"}"}"#, json!({ "a": "}{][,:", "b": "\"}" }));
        check(r#"{"a": "“全角，标点：”"}"#, json!({ "a": "“全角，标点：”" }));
    }

    #[test]
    fn prose_stops_the_repair_early() {
        check_broken("{a, b}", 2, false);
        check_broken("[see above]", 1, false);
        check_broken("[1 and 2]", 3, true);
        check_broken("{{}}", 1, false);
        check_broken(r#"{"a": 1]"#, 7, true);
        check_broken(r#"{"a": oops}"#, 6, true);
        check_broken("{,}", 1, false);
    }

    #[test]
    fn missing_brackets_are_added_if_nothing_else_is_missing() {
        check_open(r#"{"a": [1, {"b": 2}"#, Some(r#"{"a":[1,{"b":2}]}"#));
        check_open(r#"{"a": 1,"#, Some(r#"{"a":1}"#));
        for text in ["{", r#"{"a"#, r#"{"a""#, r#"{"a":"#, r#"{"a": "b"#, r#"{"a": ["#, r#"{"a": "b\"#] {
            check_open(text, None);
        }
    }

    #[test]
    fn unescaped_quotes_are_accepted_in_loose_mode() {
        let text = r#"{"reason": "it says "yes", twice", "verdict": 1}"#;
        assert!(matches!(repair(text, 0, Quotes::Strict), Repaired::Invalid { .. }));
        let text = r#"{"reason": "it says "yes" twice", "verdict": 1}"#;
        let Repaired::Complete { json, .. } = repair(text, 0, Quotes::Loose) else { panic!("not whole") };
        let expected = json!({ "reason": "it says \"yes\" twice", "verdict": 1 });
        assert_eq!(serde_json::from_str::<Value>(&json).expect(&json), expected);
    }

    #[test]
    fn nesting_is_limited() {
        check_broken(&"[".repeat(1_000_000), MAX_DEPTH, false);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC*".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn valid_json_keeps_its_value(value in any_json(), pretty: bool) {
            let value = json!([value]);
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.expect("a value");
            for quotes in [Quotes::Strict, Quotes::Loose] {
                let Repaired::Complete { json, end } = repair(&text, 0, quotes) else { panic!("not whole: {text}") };
                prop_assert_eq!(serde_json::from_str::<Value>(&json).expect("valid JSON"), value.clone());
                prop_assert_eq!(end, text.len());
            }
        }

        #[test]
        fn any_text_is_handled(text in r#"[\{\}\[\]"',:\\u“”：a1 \n]{0,80}"#) {
            for (start, _) in text.char_indices() {
                repair(&text, start, Quotes::Strict);
                repair(&text, start, Quotes::Loose);
            }
        }
    }
}
