//! Options of metrics that compare texts or their vectors.

use super::Reading;
use crate::{
    evaluate::{
        lexical::{Tokens, bleu, chrf, rouge, string_similarity, text_context},
        metric::Metric,
        vector::semantic_similarity,
    },
    proto,
};

impl Reading<'_> {
    pub(super) fn semantic_similarity(&mut self, o: &proto::SemanticSimilarityOptions) -> Metric {
        let field = "semantic_similarity.threshold";
        let threshold = o.threshold.map(|threshold| self.number(field, Some(threshold), 0.0, -1.0..=1.0));
        Metric::SemanticSimilarity(semantic_similarity::Options { threshold })
    }

    pub(super) fn bleu(&mut self, o: &proto::BleuOptions) -> Metric {
        use proto::bleu_options::{Smoothing, Tokenizer};
        let tokenizer = match self.choice("bleu.tokenizer", o.tokenizer) {
            Tokenizer::Unspecified => bleu::Tokenizer::Auto,
            Tokenizer::Tokenizer13a => bleu::Tokenizer::Mteval13a,
            Tokenizer::Zh => bleu::Tokenizer::Chinese,
            Tokenizer::Char => bleu::Tokenizer::Characters,
            Tokenizer::None => bleu::Tokenizer::None,
        };
        let smoothing = match self.choice("bleu.smoothing", o.smoothing) {
            Smoothing::Unspecified | Smoothing::Exp => bleu::Smoothing::Exponential,
            Smoothing::Floor => bleu::Smoothing::Floor(0.1),
            Smoothing::AddK => bleu::Smoothing::AddK(1.0),
            Smoothing::None => bleu::Smoothing::None,
        };
        let max_order = self.small("bleu.max_order", o.max_order, 4, 1..=8);
        let lowercase = o.lowercase;
        Metric::Bleu(bleu::Options { tokenizer, smoothing, max_order, lowercase, ..Default::default() })
    }

    pub(super) fn rouge(&mut self, o: &proto::RougeOptions) -> Metric {
        use proto::rouge_options::{Measure, Variant};
        let variant = match self.choice("rouge.variant", o.variant) {
            Variant::Unspecified | Variant::L => rouge::Variant::RougeL,
            Variant::Variant1 => rouge::Variant::Rouge1,
            Variant::Variant2 => rouge::Variant::Rouge2,
        };
        let measure = match self.choice("rouge.measure", o.measure) {
            Measure::Unspecified | Measure::F => rouge::Measure::FMeasure,
            Measure::Precision => rouge::Measure::Precision,
            Measure::Recall => rouge::Measure::Recall,
        };
        let tokens = if o.chinese_words { Tokens::Words } else { Tokens::Auto };
        Metric::Rouge(rouge::Options { variant, measure, tokens, stem: o.stem.unwrap_or(true) })
    }

    pub(super) fn chrf(&mut self, o: &proto::ChrfOptions) -> Metric {
        Metric::Chrf(chrf::Options {
            char_order: self.small("chrf.char_order", o.char_order, 6, 1..=10),
            word_order: self.small("chrf.word_order", o.word_order, 0, 0..=4),
            beta: f64::from(self.whole("chrf.beta", o.beta, 2, 1..=10)),
            lowercase: o.lowercase,
            ..Default::default()
        })
    }

    pub(super) fn string_similarity(&mut self, o: &proto::StringSimilarityOptions) -> Metric {
        let measure = self.measure("string_similarity.measure", o.measure);
        Metric::StringSimilarity(string_similarity::Options { measure })
    }

    pub(super) fn context_match(&mut self, o: &proto::ContextMatchOptions) -> text_context::Options {
        let measure = self.measure("context_match.measure", o.measure);
        let threshold = self.number("context_match.threshold", o.threshold, 0.5, 0.0..=1.0);
        text_context::Options { measure, threshold }
    }

    fn measure(&mut self, field: &str, value: i32) -> string_similarity::Measure {
        use proto::StringMeasure;
        match self.choice(field, value) {
            StringMeasure::Unspecified | StringMeasure::Levenshtein => {
                string_similarity::Measure::Levenshtein
            }
            StringMeasure::Hamming => string_similarity::Measure::Hamming,
            StringMeasure::Jaro => string_similarity::Measure::Jaro,
            StringMeasure::JaroWinkler => string_similarity::Measure::JaroWinkler,
        }
    }
}
