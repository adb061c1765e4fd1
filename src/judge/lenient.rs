//! Values in the forms in which judges write them, deserialized without guessing (pure).
//!
//! The schema of each type asks for the strict form. Other forms are accepted if they have only one meaning; all else
//! is an error. Errors do not repeat what the judge wrote.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, SeqAccess, Unexpected, Visitor},
};
use unicode_normalization::UnicodeNormalization;

/// A boolean: `true`, 1, `"1"`, `"yes"`, `"是"`, `"支持"`, ... and their opposites; never 2 or 0.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Yes(pub bool);

/// An integer: 4, 4.0, `"4"`, `"4.0"` or `"４"`; never a fraction or a number in prose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Rating(pub i64);

/// The id of a claim or a context, normalized: `" [C1] "` is `"c1"`, 1 is `"1"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Id(String);

/// A list of texts. A single text is a list of one, and null is an empty list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TextList(pub Vec<String>);

const YES: [&str; 12] =
    ["true", "yes", "y", "1", "1.0", "是", "是的", "对", "正确", "支持", "有用", "supported"];
const NO: [&str; 16] = [
    "false",
    "no",
    "n",
    "0",
    "0.0",
    "否",
    "不",
    "不是",
    "错",
    "错误",
    "不对",
    "不正确",
    "不支持",
    "无用",
    "unsupported",
    "not supported",
];

impl Yes {
    fn read(text: &str) -> Option<Yes> {
        let folded = fold(text);
        let word = folded.trim_end_matches(['.', '!', '。']);
        YES.contains(&word).then_some(Yes(true)).or_else(|| NO.contains(&word).then_some(Yes(false)))
    }
}

impl Rating {
    fn read(text: &str) -> Option<Rating> {
        let folded = fold(text);
        let (whole, fraction) = folded.split_once('.').unwrap_or((&folded, "0"));
        let is_whole = !fraction.is_empty() && fraction.bytes().all(|digit| digit == b'0');
        is_whole.then(|| whole.parse().ok()).flatten().map(Rating)
    }
}

impl Id {
    /// Normalizes an id.
    pub fn new(text: &str) -> Id {
        let is_around = |c: char| c.is_whitespace() || ['[', ']', '(', ')', '#', '"', '\''].contains(&c);
        Id(fold(text).trim_matches(is_around).to_owned())
    }

    /// The normalized id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this id, as a judge wrote it, refers to `id`. `1` also matches `c1`, because judges drop the letter.
    pub fn names(&self, id: &str) -> bool {
        let id = Id::new(id);
        let digits = id.0.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        *self == id || (!digits.is_empty() && self.0 == digits && digits.bytes().all(|c| c.is_ascii_digit()))
    }
}

/// Normalizes full-width characters, case and outer white space.
fn fold(text: &str) -> String {
    text.trim().nfkc().collect::<String>().trim().to_lowercase()
}

/// Deserializes optional text; null is empty. For `#[serde(default, deserialize_with = "...")]`.
///
/// # Errors
/// If it is neither text nor null.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl<'de> Deserialize<'de> for Yes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Yes, D::Error> {
        deserializer.deserialize_any(YesVisitor)
    }
}

struct YesVisitor;

impl Visitor<'_> for YesVisitor {
    type Value = Yes;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("true or false")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Yes, E> {
        Ok(Yes(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Yes, E> {
        match value {
            0 | 1 => Ok(Yes(value == 1)),
            _ => Err(E::invalid_value(Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Yes, E> {
        let unexpected = |_| E::invalid_value(Unexpected::Signed(value), &self);
        u64::try_from(value).map_err(unexpected).and_then(|value| YesVisitor.visit_u64(value))
    }

    #[expect(clippy::float_cmp, reason = "nothing but exactly 0 and 1 has a meaning here")]
    fn visit_f64<E: Error>(self, value: f64) -> Result<Yes, E> {
        match value == 0.0 || value == 1.0 {
            true => Ok(Yes(value == 1.0)),
            false => Err(E::invalid_value(Unexpected::Float(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Yes, E> {
        Yes::read(value).ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self))
    }
}

impl<'de> Deserialize<'de> for Rating {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rating, D::Error> {
        deserializer.deserialize_any(RatingVisitor)
    }
}

struct RatingVisitor;

impl Visitor<'_> for RatingVisitor {
    type Value = Rating;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("one whole number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Rating, E> {
        Ok(Rating(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Rating, E> {
        let unexpected = |_| E::invalid_value(Unexpected::Unsigned(value), &self);
        i64::try_from(value).map(Rating).map_err(unexpected)
    }

    #[expect(clippy::cast_possible_truncation, reason = "whole and small: the cast is exact")]
    fn visit_f64<E: Error>(self, value: f64) -> Result<Rating, E> {
        match value.fract() == 0.0 && value.abs() < 1e15 {
            true => Ok(Rating(value as i64)),
            false => Err(E::invalid_value(Unexpected::Float(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Rating, E> {
        Rating::read(value).ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self))
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an id")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Id, E> {
        Ok(Id(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Id, E> {
        let id = Id::new(value);
        match id.0.is_empty() {
            false => Ok(id),
            true => Err(E::invalid_value(Unexpected::Str(value), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for TextList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TextList, D::Error> {
        deserializer.deserialize_any(TextListVisitor)
    }
}

struct TextListVisitor;

impl<'de> Visitor<'de> for TextListVisitor {
    type Value = TextList;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_unit<E: Error>(self) -> Result<TextList, E> {
        Ok(TextList::default())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<TextList, E> {
        Ok(TextList(vec![value.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<TextList, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        Ok(TextList(texts))
    }
}

impl JsonSchema for Yes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Yes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

impl JsonSchema for Rating {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Rating".into()
    }

    /// Omits the format, because strict endpoints reject `int64`.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer" })
    }
}

impl JsonSchema for Id {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl JsonSchema for TextList {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TextList".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": { "type": "string" } })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn check<T: DeserializeOwned + PartialEq + fmt::Debug>(json: &str, expected: Option<T>) {
        assert_eq!(serde_json::from_str(json).ok(), expected, "{json}");
    }

    #[test]
    fn yes_and_no_are_accepted_in_every_common_form() {
        for json in
            ["true", "1", "1.0", r#""1""#, r#""True""#, r#"" YES. ""#, r#""是""#, r#""支持""#, r#""１""#]
        {
            check(json, Some(Yes(true)));
        }
        for json in
            ["false", "0", "-0.0", r#""0""#, r#""False""#, r#""no""#, r#""否""#, r#""不支持。""#, r#""错""#]
        {
            check(json, Some(Yes(false)));
        }
    }

    #[test]
    fn values_other_than_yes_and_no_are_rejected() {
        for json in
            ["2", "-1", "0.5", "null", r#""maybe""#, r#""2""#, r#""""#, r#""部分支持""#, "[]", "{}", "[true]"]
        {
            check::<Yes>(json, None);
        }
    }

    #[test]
    fn a_rating_is_an_integer() {
        for json in ["4", "4.0", r#""4""#, r#""4.0""#, r#""4.00""#, r#""４""#, r#"" 4 ""#, "4e0"] {
            check(json, Some(Rating(4)));
        }
        check("-2", Some(Rating(-2)));
        check(r#""10""#, Some(Rating(10)));
    }

    #[test]
    fn a_rating_is_never_guessed() {
        for json in
            ["4.5", r#""4.5""#, r#""rating: 4""#, r#""4/5""#, r#""4.""#, r#""four""#, "true", "null", "1e300"]
        {
            check::<Rating>(json, None);
        }
        check::<Rating>("18446744073709551615", None);
    }

    #[test]
    fn ids_are_normalized() {
        for json in [r#""c1""#, r#""C1""#, r#"" c1 ""#, r#""[c1]""#, r#""[c1\t]""#, r#""ｃ１""#] {
            check(json, Some(Id("c1".to_owned())));
        }
        check("1", Some(Id("1".to_owned())));
        check(r#""1""#, Some(Id("1".to_owned())));
        for json in [r#""""#, r#""[]""#, "null", "1.5", "[1]", "-1"] {
            check::<Id>(json, None);
        }
    }

    #[test]
    fn an_id_without_its_letter_matches() {
        for (written, id, expected) in [
            ("c1", "c1", true),
            ("1", "c1", true),
            ("1", "1", true),
            ("1", "c11", false),
            ("s1", "c1", false),
            ("", "c", false),
            ("1", "c1a", false),
        ] {
            assert_eq!(Id::new(written).names(id), expected, "{written} {id}");
        }
    }

    #[test]
    fn a_single_text_is_a_list_of_one() {
        check(r#""a""#, Some(TextList(vec!["a".to_owned()])));
        check(r#"["a", "b"]"#, Some(TextList(vec!["a".to_owned(), "b".to_owned()])));
        check("null", Some(TextList::default()));
        check::<TextList>("[1]", None);
        check::<TextList>("{}", None);
    }

    #[test]
    fn a_missing_reason_and_extra_fields_are_accepted() {
        #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
        struct Item {
            verdict: Yes,
            #[serde(default, deserialize_with = "text")]
            reason: String,
        }
        let item = |verdict, reason: &str| Some(Item { verdict: Yes(verdict), reason: reason.to_owned() });
        check(r#"{"verdict": "是", "confidence": 0.9}"#, item(true, ""));
        check(r#"{"verdict": 0, "reason": null}"#, item(false, ""));
        check(r#"{"verdict": 0, "reason": "so"}"#, item(false, "so"));
        check::<Item>(r#"{"reason": "so"}"#, None);
    }

    #[test]
    fn the_schema_asks_for_the_strict_form() {
        let kind = |schema: Schema| schema.get("type").cloned();
        assert_eq!(kind(schemars::schema_for!(Yes)), Some("boolean".into()));
        assert_eq!(kind(schemars::schema_for!(Rating)), Some("integer".into()));
        assert_eq!(kind(schemars::schema_for!(Id)), Some("string".into()));
        assert_eq!(kind(schemars::schema_for!(TextList)), Some("array".into()));
    }
}
