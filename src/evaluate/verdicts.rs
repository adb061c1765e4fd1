//! The forms of the judge's answers.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::judge::{
    Verdict,
    lenient::{self, Id, Rating, Texts, Yes},
};

/// Declares an answer's form: its name, its version and what must hold in it.
macro_rules! verdict {
    ($type:ty, $name:literal, $version:literal) => {
        impl Verdict for $type {
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
        }
    };
}
