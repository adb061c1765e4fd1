//! What an endpoint can do, learnt from its answers and shared by all calls.

mod naming;

use parking_lot::{Mutex, MutexGuard};

use self::naming::{is_too_long, named};
use super::wire::Complaint;

/// How answers are held to their form, the strictest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Structured {
    JsonSchema,
    JsonObject,
    Tools,
    /// By words alone.
    Text,
}

impl Structured {
    pub fn name(self) -> &'static str {
        match self {
            Structured::JsonSchema => "json_schema",
            Structured::JsonObject => "json_object",
            Structured::Tools => "tools",
            Structured::Text => "text",
        }
    }

    fn next(self) -> Option<Structured> {
        match self {
            Structured::JsonSchema => Some(Structured::JsonObject),
            Structured::JsonObject => Some(Structured::Tools),
            Structured::Tools => Some(Structured::Text),
            Structured::Text => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenLimit {
    MaxTokens,
    MaxCompletionTokens,
    Unset,
}

impl TokenLimit {
    fn name(self) -> Option<&'static str> {
        match self {
            TokenLimit::MaxTokens => Some("max_tokens"),
            TokenLimit::MaxCompletionTokens => Some("max_completion_tokens"),
            TokenLimit::Unset => None,
        }
    }

    fn next(self) -> TokenLimit {
        match self {
            TokenLimit::MaxTokens => TokenLimit::MaxCompletionTokens,
            TokenLimit::MaxCompletionTokens | TokenLimit::Unset => TokenLimit::Unset,
        }
    }
}

/// What a request makes use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    pub structured: Structured,
    pub token_limit: TokenLimit,
    pub temperature: bool,
    pub seed: bool,
    /// Several choices at once, by `n`.
    pub many: bool,
    /// The form stands in words too, as the mode alone has not held answers to it.
    pub in_words: bool,
}

/// One step down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Structured,
    TokenLimit,
    Temperature,
    Seed,
    Many,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::Structured => "response_format",
            Step::TokenLimit => "max_tokens",
            Step::Temperature => "temperature",
            Step::Seed => "seed",
            Step::Many => "n",
        }
    }
}

/// What one request carried, of the things an endpoint may not know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub features: Features,
    pub seed: bool,
    pub many: bool,
}

impl Features {
    const ALL: Features = Features {
        structured: Structured::JsonSchema,
        token_limit: TokenLimit::MaxTokens,
        temperature: true,
        seed: true,
        many: true,
        in_words: false,
    };

    fn without(mut self, step: Step) -> Features {
        match step {
            Step::Structured => self.structured = self.structured.next().unwrap_or(Structured::Text),
            Step::TokenLimit => self.token_limit = self.token_limit.next(),
            Step::Temperature => self.temperature = false,
            Step::Seed => self.seed = false,
            Step::Many => self.many = false,
        }
        self
    }

    /// Whether `step` was taken between `self` and `later`.
    fn differs_in(&self, later: &Features, step: Step) -> bool {
        match step {
            Step::Structured => self.structured != later.structured,
            Step::TokenLimit => self.token_limit != later.token_limit,
            Step::Temperature => self.temperature != later.temperature,
            Step::Seed => self.seed != later.seed,
            Step::Many => self.many != later.many,
        }
    }
}

/// What a request is to do after the endpoint has refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Go on without it. `first` for the one who is to tell of it: all others find it done.
    Drop {
        step: Step,
        first: bool,
    },
    /// Nothing was named; perhaps it is this. To be learnt only if the endpoint answers then.
    Try(Structured),
    /// The answer's limit and the prompt do not fit together; without one, the endpoint gives what is left.
    Unlimited,
    GiveUp,
}

/// Shared by all calls to one endpoint and model.
pub(super) struct Capability(Mutex<State>);

struct State {
    features: Features,
    /// The mode in which the endpoint has answered.
    answered: Option<Structured>,
    dropped: Vec<&'static str>,
}

impl Capability {
    pub fn new() -> Capability {
        Capability(Mutex::new(State { features: Features::ALL, answered: None, dropped: Vec::new() }))
    }

    pub fn features(&self) -> Features {
        self.lock().features
    }

    /// None before the first answer.
    pub fn structured(&self) -> Option<Structured> {
        self.lock().answered
    }

    pub fn dropped(&self) -> Vec<&'static str> {
        self.lock().dropped.clone()
    }

    /// The endpoint has answered a request of this mode. True if that is news that leaves a stricter mode behind.
    pub fn answered(&self, structured: Structured) -> bool {
        let mut state = self.lock();
        let loosened = structured > state.features.structured && state.answered.is_none();
        if loosened {
            state.features.structured = structured;
            state.dropped.push(Step::Structured.name());
        }
        state.answered = Some(state.features.structured);
        loosened
    }

    /// From now on the form is told in words too. True if that is news.
    pub fn tell_in_words(&self) -> bool {
        !std::mem::replace(&mut self.lock().features.in_words, true)
    }

    /// Takes back what the endpoint says that it does not take.
    pub fn refused(&self, sent: &Sent, complaint: &Complaint) -> Advice {
        if is_too_long(complaint) {
            let limited = sent.features.token_limit != TokenLimit::Unset;
            return if limited { Advice::Unlimited } else { Advice::GiveUp };
        }
        match named(sent, complaint) {
            Some(step) => Advice::Drop { step, first: self.drop_step(&sent.features, step) },
            None => self.guess(sent.features.structured),
        }
    }

    /// True for the one who drops it first.
    pub fn drop_step(&self, sent: &Features, step: Step) -> bool {
        let mut state = self.lock();
        if sent.differs_in(&state.features, step) {
            return false;
        }
        state.features = state.features.without(step);
        if step == Step::Structured && state.answered.is_some() {
            state.answered = Some(state.features.structured);
        }
        let name = dropped_name(sent, step);
        if !state.dropped.contains(&name) {
            state.dropped.push(name);
        }
        true
    }

    fn guess(&self, sent: Structured) -> Advice {
        let state = self.lock();
        // Where the mode has worked before, the request's content is to blame.
        if state.answered == Some(sent) {
            return Advice::GiveUp;
        }
        sent.next().map_or(Advice::GiveUp, Advice::Try)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

fn dropped_name(sent: &Features, step: Step) -> &'static str {
    match step {
        Step::Structured => sent.structured.name(),
        Step::TokenLimit => sent.token_limit.name().unwrap_or("max_tokens"),
        other => other.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Advice, Capability, Complaint, Features, Sent, Step, Structured, TokenLimit};

    fn all() -> Sent {
        Sent { features: Features::ALL, seed: true, many: true }
    }

    fn message(text: &str) -> Complaint {
        Complaint { message: text.to_owned(), ..Complaint::default() }
    }

    #[test]
    fn what_a_complaint_names_is_dropped() {
        let check = |text: &str, step: Step| {
            let advice = Capability::new().refused(&all(), &message(text));
            assert_eq!(advice, Advice::Drop { step, first: true }, "{text}");
        };
        check("'response_format' is not supported", Step::Structured);
        check("This model does not support json_schema", Step::Structured);
        check("Invalid schema for response_format 'x'", Step::Structured);
        check(
            "Unsupported parameter: 'max_tokens' is not supported with this model. \
             Use 'max_completion_tokens' instead.",
            Step::TokenLimit,
        );
        check("temperature must be strictly positive", Step::Temperature);
        check("Unrecognized request argument supplied: seed", Step::Seed);
        check("`n` must be 1", Step::Many);
        check("only n=1 is supported", Step::Many);
        check("unknown parameter: n", Step::Many);
        check("[{'type': 'extra_forbidden', 'loc': ('body', 'n')}]", Step::Many);
    }

    #[test]
    fn the_named_parameter_outranks_the_words() {
        let complaint = Complaint { param: Some("seed".into()), ..message("temperature 0 with seed") };
        let advice = Capability::new().refused(&all(), &complaint);
        assert_eq!(advice, Advice::Drop { step: Step::Seed, first: true });
        let deep = Complaint { param: Some("response_format.json_schema".into()), ..message("no") };
        let advice = Capability::new().refused(&all(), &deep);
        assert_eq!(advice, Advice::Drop { step: Step::Structured, first: true });
    }

    #[test]
    fn a_parameter_that_was_not_sent_is_not_blamed() {
        let sent = Sent { seed: false, many: false, ..all() };
        for text in ["seed is not supported", "`n` must be 1", "n tokens", "an error"] {
            let advice = Capability::new().refused(&sent, &message(text));
            assert_eq!(advice, Advice::Try(Structured::JsonObject), "{text}");
        }
    }

    #[test]
    fn a_drop_is_told_once_whoever_finds_it_next() {
        let capability = Capability::new();
        let complaint = message("seed?");
        assert_eq!(capability.refused(&all(), &complaint), Advice::Drop { step: Step::Seed, first: true });
        assert_eq!(capability.refused(&all(), &complaint), Advice::Drop { step: Step::Seed, first: false });
        assert!(!capability.features().seed);
        assert_eq!(capability.dropped(), ["seed"]);
    }

    #[test]
    fn modes_go_down_one_by_one_to_plain_text() {
        let capability = Capability::new();
        let complaint = message("response_format, tools: unknown");
        for (from, to) in [
            (Structured::JsonSchema, Structured::JsonObject),
            (Structured::JsonObject, Structured::Tools),
            (Structured::Tools, Structured::Text),
        ] {
            let sent = Sent { features: capability.features(), ..all() };
            assert_eq!(sent.features.structured, from);
            capability.refused(&sent, &complaint);
            assert_eq!(capability.features().structured, to);
        }
        let sent = Sent { features: capability.features(), ..all() };
        assert_eq!(capability.refused(&sent, &complaint), Advice::GiveUp);
        assert_eq!(capability.dropped(), ["json_schema", "json_object", "tools"]);
    }

    #[test]
    fn the_token_limit_has_two_names_before_it_is_left_out() {
        let capability = Capability::new();
        capability.refused(&all(), &message("max_tokens is deprecated"));
        assert_eq!(capability.features().token_limit, TokenLimit::MaxCompletionTokens);
        let sent = Sent { features: capability.features(), ..all() };
        capability.refused(&sent, &message("max_completion_tokens: unknown field"));
        assert_eq!(capability.features().token_limit, TokenLimit::Unset);
    }

    #[test]
    fn a_guess_is_learnt_only_from_an_answer() {
        let capability = Capability::new();
        assert_eq!(capability.refused(&all(), &message("bad")), Advice::Try(Structured::JsonObject));
        assert_eq!(capability.features().structured, Structured::JsonSchema);
        assert!(capability.answered(Structured::JsonObject));
        assert!(!capability.answered(Structured::JsonObject));
        assert_eq!(capability.features().structured, Structured::JsonObject);
        assert_eq!(capability.structured(), Some(Structured::JsonObject));
    }

    #[test]
    fn a_mode_that_has_worked_is_not_doubted() {
        let capability = Capability::new();
        capability.answered(Structured::JsonSchema);
        assert_eq!(capability.refused(&all(), &message("bad")), Advice::GiveUp);
    }

    #[test]
    fn a_prompt_that_is_too_long_changes_nothing_for_others() {
        let capability = Capability::new();
        let complaint =
            message("This model's maximum context length is 8192 tokens; max_tokens is too large");
        assert_eq!(capability.refused(&all(), &complaint), Advice::Unlimited);
        let unlimited = Features { token_limit: TokenLimit::Unset, ..Features::ALL };
        let sent = Sent { features: unlimited, ..all() };
        assert_eq!(capability.refused(&sent, &complaint), Advice::GiveUp);
        assert_eq!(capability.features(), Features::ALL);
    }
}
