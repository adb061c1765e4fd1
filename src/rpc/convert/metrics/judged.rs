//! Options of metrics that ask the judge.

use std::ops::RangeInclusive;

use super::Reading;
use crate::{
    evaluate::{
        judged::{
            answer_correctness, answer_relevancy, aspect_critic::Criterion, custom, factual_correctness,
            noise_sensitivity, rubrics, summary_score,
        },
        metric::Metric,
    },
    proto,
};

/// Whatever counts more often than this is a mistake, and numbers stay far from where they overflow.
const LARGEST_BETA: f64 = 100.0;
const LARGEST_WEIGHT: f64 = 1000.0;
const LARGEST_NUMBER: f64 = 1e12;
/// Values that one judge may choose from.
const VALUES: RangeInclusive<usize> = 2..=64;
const CANDIDATES: RangeInclusive<usize> = 2..=26;

impl Reading<'_> {
    pub(super) fn answer_relevancy(&mut self, o: &proto::AnswerRelevancyOptions) -> Metric {
        let questions = self.whole("answer_relevancy.questions", o.questions, 3, 1..=10);
        Metric::AnswerRelevancy(answer_relevancy::Options { questions: questions as usize })
    }

    pub(super) fn answer_correctness(&mut self, o: &proto::AnswerCorrectnessOptions) -> Metric {
        let default = answer_correctness::Options::default();
        let weights = 0.0..=LARGEST_WEIGHT;
        let field = "answer_correctness";
        let options = answer_correctness::Options {
            factuality_weight: self.number(
                &format!("{field}.factuality_weight"),
                o.factuality_weight,
                default.factuality_weight,
                weights.clone(),
            ),
            similarity_weight: self.number(
                &format!("{field}.similarity_weight"),
                o.similarity_weight,
                default.similarity_weight,
                weights,
            ),
            beta: self.beta(&format!("{field}.beta"), o.beta),
        };
        if options.factuality_weight + options.similarity_weight == 0.0 {
            self.check.add(self.at(field), "one of the weights must be above 0");
        }
        Metric::AnswerCorrectness(options)
    }

    pub(super) fn factual_correctness(&mut self, o: &proto::FactualCorrectnessOptions) -> Metric {
        use proto::factual_correctness_options::Mode;
        let mode = match self.choice("factual_correctness.mode", o.mode) {
            Mode::Unspecified | Mode::F => factual_correctness::Mode::F,
            Mode::Precision => factual_correctness::Mode::Precision,
            Mode::Recall => factual_correctness::Mode::Recall,
        };
        let beta = self.beta("factual_correctness.beta", o.beta);
        Metric::FactualCorrectness(factual_correctness::Options { mode, beta })
    }

    pub(super) fn noise_sensitivity(&mut self, o: &proto::NoiseSensitivityOptions) -> Metric {
        use proto::noise_sensitivity_options::Mode;
        Metric::NoiseSensitivity(match self.choice("noise_sensitivity.mode", o.mode) {
            Mode::Unspecified | Mode::Relevant => noise_sensitivity::Mode::Relevant,
            Mode::Irrelevant => noise_sensitivity::Mode::Irrelevant,
        })
    }

    pub(super) fn summary_score(&mut self, o: &proto::SummaryScoreOptions) -> Metric {
        let default = summary_score::Options::default();
        let weight = "summary_score.conciseness_weight";
        Metric::SummaryScore(summary_score::Options {
            length_penalty: o.length_penalty.unwrap_or(default.length_penalty),
            conciseness_weight: self.number(
                weight,
                o.conciseness_weight,
                default.conciseness_weight,
                0.0..=1.0,
            ),
        })
    }

    pub(super) fn criterion(&mut self, o: proto::CriterionOptions) -> Criterion {
        let default = Criterion::default();
        self.text("criterion.definition", &o.definition);
        let (lowest, highest) = (o.lowest.unwrap_or(default.lowest), o.highest.unwrap_or(default.highest));
        if lowest >= highest {
            let description = format!("{highest}, more than lowest ({lowest}) is needed");
            self.check.add(self.at("criterion.highest"), description);
        }
        let samples = self.odd("criterion.samples", o.samples);
        Criterion { definition: o.definition, samples, lowest, highest }
    }

    pub(super) fn rubrics(&mut self, o: proto::RubricsOptions) -> Metric {
        if o.rubrics.is_empty() {
            return Metric::Rubrics(rubrics::Options::default());
        }
        let path = self.at("rubrics.rubrics");
        let rubrics = self.check.rubrics(&path, o.rubrics, self.limits);
        Metric::Rubrics(rubrics::Options { rubrics })
    }

    pub(super) fn discrete(&mut self, o: proto::DiscreteOptions) -> Metric {
        self.text("discrete.instruction", &o.instruction);
        let path = self.at("discrete.values");
        self.check.count(&path, o.values.len(), VALUES);
        for (index, value) in o.values.iter().enumerate().take(*VALUES.end()) {
            self.check.text(|| format!("{path}[{index}]"), value, self.limits);
            if o.values[..index].contains(value) {
                self.check.add(format!("{path}[{index}]"), "the same value stands before it");
            }
        }
        let samples = self.odd("discrete.samples", o.samples);
        Metric::Discrete(custom::Discrete { instruction: o.instruction, values: o.values, samples })
    }

    pub(super) fn numeric(&mut self, o: proto::NumericOptions) -> Metric {
        let numbers = -LARGEST_NUMBER..=LARGEST_NUMBER;
        self.text("numeric.instruction", &o.instruction);
        let lowest = self.number("numeric.lowest", o.lowest, 0.0, numbers.clone());
        let highest = self.number("numeric.highest", o.highest, 1.0, numbers);
        if lowest >= highest {
            let description = format!("{highest}, more than lowest ({lowest}) is needed");
            self.check.add(self.at("numeric.highest"), description);
        }
        let samples = self.whole("numeric.samples", o.samples, 1, 1..=9) as usize;
        Metric::Numeric(custom::Numeric { instruction: o.instruction, lowest, highest, samples })
    }

    pub(super) fn ranking(&mut self, o: proto::RankingOptions) -> Metric {
        self.text("ranking.instruction", &o.instruction);
        let path = self.at("ranking.candidates");
        if o.candidates.is_empty() {
            let contexts = self.sample.retrieved_contexts.len();
            self.check.count(&format!("{path}, or sample.retrieved_contexts"), contexts, CANDIDATES);
        } else {
            self.check.count(&path, o.candidates.len(), CANDIDATES);
        }
        for (index, candidate) in o.candidates.iter().enumerate().take(*CANDIDATES.end()) {
            self.check.text(|| format!("{path}[{index}]"), candidate, self.limits);
        }
        Metric::Ranking(custom::Ranking { instruction: o.instruction, candidates: o.candidates })
    }

    fn beta(&mut self, field: &str, value: Option<f64>) -> f64 {
        self.number(field, value, 1.0, 1.0 / LARGEST_BETA..=LARGEST_BETA)
    }

    /// Of judgements, so that most of them agree.
    fn odd(&mut self, field: &str, value: Option<u32>) -> usize {
        let samples = self.whole(field, value, 1, 1..=9);
        if samples.is_multiple_of(2) {
            self.check.add(self.at(field), format!("{samples}, an odd number is needed"));
        }
        samples as usize
    }
}
