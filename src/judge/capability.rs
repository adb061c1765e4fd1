//! Request parameters that an endpoint supports, learnt from its answers and shared by all calls.

use parking_lot::{Mutex, MutexGuard};

use super::{
    rejected_parameter::{is_too_long, named},
    wire::ErrorDetails,
};

/// Structured-output mode, the strictest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Structured {
    /// `response_format` with a JSON schema.
    JsonSchema,
    /// `response_format` of any JSON object.
    JsonObject,
    /// A call of a tool with the schema as its parameters.
    Tools,
    /// No parameter; the prompt alone describes the schema.
    Text,
}

impl Structured {
    /// Name in metrics and status.
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
pub(super) enum TokenLimitParameter {
    MaxTokens,
    MaxCompletionTokens,
    Unset,
}

impl TokenLimitParameter {
    fn name(self) -> Option<&'static str> {
        match self {
            TokenLimitParameter::MaxTokens => Some("max_tokens"),
            TokenLimitParameter::MaxCompletionTokens => Some("max_completion_tokens"),
            TokenLimitParameter::Unset => None,
        }
    }

    fn next(self) -> TokenLimitParameter {
        match self {
            TokenLimitParameter::MaxTokens => TokenLimitParameter::MaxCompletionTokens,
            TokenLimitParameter::MaxCompletionTokens | TokenLimitParameter::Unset => {
                TokenLimitParameter::Unset
            }
        }
    }
}

/// Optional parameters that requests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndpointFeatures {
    pub structured: Structured,
    pub token_limit: TokenLimitParameter,
    pub temperature: bool,
    pub seed: bool,
    /// Several choices per request (`n`).
    pub multiple_choices: bool,
    /// The prompt describes the schema, because the mode alone did not enforce it.
    pub schema_in_prompt: bool,
}

/// Degradation of one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Degradation {
    Structured,
    TokenLimit,
    Temperature,
    Seed,
    MultipleChoices,
}

impl Degradation {
    pub fn name(self) -> &'static str {
        match self {
            Degradation::Structured => "response_format",
            Degradation::TokenLimit => "max_tokens",
            Degradation::Temperature => "temperature",
            Degradation::Seed => "seed",
            Degradation::MultipleChoices => "n",
        }
    }
}

/// Optional parameters that one request carried.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentFeatures {
    pub features: EndpointFeatures,
    pub seed: bool,
    pub multiple_choices: bool,
}

impl EndpointFeatures {
    const ALL: EndpointFeatures = EndpointFeatures {
        structured: Structured::JsonSchema,
        token_limit: TokenLimitParameter::MaxTokens,
        temperature: true,
        seed: true,
        multiple_choices: true,
        schema_in_prompt: false,
    };

    fn without(mut self, degradation: Degradation) -> EndpointFeatures {
        match degradation {
            Degradation::Structured => self.structured = self.structured.next().unwrap_or(Structured::Text),
            Degradation::TokenLimit => self.token_limit = self.token_limit.next(),
            Degradation::Temperature => self.temperature = false,
            Degradation::Seed => self.seed = false,
            Degradation::MultipleChoices => self.multiple_choices = false,
        }
        self
    }

    /// Whether `degradation` happened between `self` and `later`.
    fn differs_in(&self, later: &EndpointFeatures, degradation: Degradation) -> bool {
        match degradation {
            Degradation::Structured => self.structured != later.structured,
            Degradation::TokenLimit => self.token_limit != later.token_limit,
            Degradation::Temperature => self.temperature != later.temperature,
            Degradation::Seed => self.seed != later.seed,
            Degradation::MultipleChoices => self.multiple_choices != later.multiple_choices,
        }
    }
}

/// How to continue after the endpoint rejected a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RejectionAdvice {
    /// Omit the parameter for all requests. `first` is true for the request that caused the degradation and logs it.
    Drop {
        degradation: Degradation,
        first: bool,
    },
    /// No parameter was named. Try this mode, and keep it for all requests only if the endpoint answers.
    Try(Structured),
    /// Prompt and token limit together exceed the context; omit the limit for this request.
    OmitTokenLimit,
    GiveUp,
}

/// Capabilities of one endpoint and model, shared by all calls.
pub(super) struct Capability(Mutex<CapabilityState>);

struct CapabilityState {
    features: EndpointFeatures,
    /// Mode in which the endpoint has answered.
    answered: Option<Structured>,
    dropped: Vec<&'static str>,
}

impl Capability {
    pub fn new() -> Capability {
        Capability(Mutex::new(CapabilityState {
            features: EndpointFeatures::ALL,
            answered: None,
            dropped: Vec::new(),
        }))
    }

    pub fn features(&self) -> EndpointFeatures {
        self.lock().features
    }

    /// Mode in which the endpoint has answered; `None` before the first answer.
    pub fn structured(&self) -> Option<Structured> {
        self.lock().answered
    }

    pub fn dropped(&self) -> Vec<&'static str> {
        self.lock().dropped.clone()
    }

    /// Records an answer in this mode; returns true if this degrades the mode for all requests.
    pub fn answered(&self, structured: Structured) -> bool {
        let mut state = self.lock();
        let loosened = structured > state.features.structured && state.answered.is_none();
        if loosened {
            state.features.structured = structured;
            state.dropped.push(Degradation::Structured.name());
        }
        state.answered = Some(state.features.structured);
        loosened
    }

    /// Adds the schema to the prompt of all later requests; returns true the first time.
    pub fn require_schema_in_prompt(&self) -> bool {
        !std::mem::replace(&mut self.lock().features.schema_in_prompt, true)
    }

    /// Degrades the parameter that the rejection names, and returns how to continue.
    pub fn handle_rejection(&self, sent: &SentFeatures, details: &ErrorDetails) -> RejectionAdvice {
        if is_too_long(details) {
            let limited = sent.features.token_limit != TokenLimitParameter::Unset;
            return if limited { RejectionAdvice::OmitTokenLimit } else { RejectionAdvice::GiveUp };
        }
        match named(sent, details) {
            Some(degradation) => {
                RejectionAdvice::Drop { degradation, first: self.degrade(&sent.features, degradation) }
            }
            None => self.guess(sent.features.structured),
        }
    }

    /// Degrades all requests; returns false if another request already did.
    pub fn degrade(&self, sent: &EndpointFeatures, degradation: Degradation) -> bool {
        let mut state = self.lock();
        if sent.differs_in(&state.features, degradation) {
            return false;
        }
        state.features = state.features.without(degradation);
        if degradation == Degradation::Structured && state.answered.is_some() {
            state.answered = Some(state.features.structured);
        }
        let name = dropped_name(sent, degradation);
        if !state.dropped.contains(&name) {
            state.dropped.push(name);
        }
        true
    }

    fn guess(&self, sent: Structured) -> RejectionAdvice {
        let state = self.lock();
        // If the mode has worked before, the content of the request is the cause.
        if state.answered == Some(sent) {
            return RejectionAdvice::GiveUp;
        }
        sent.next().map_or(RejectionAdvice::GiveUp, RejectionAdvice::Try)
    }

    fn lock(&self) -> MutexGuard<'_, CapabilityState> {
        self.0.lock()
    }
}

fn dropped_name(sent: &EndpointFeatures, degradation: Degradation) -> &'static str {
    match degradation {
        Degradation::Structured => sent.structured.name(),
        Degradation::TokenLimit => sent.token_limit.name().unwrap_or("max_tokens"),
        other => other.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Capability, Degradation, EndpointFeatures, ErrorDetails, RejectionAdvice, SentFeatures, Structured,
        TokenLimitParameter,
    };

    fn all() -> SentFeatures {
        SentFeatures { features: EndpointFeatures::ALL, seed: true, multiple_choices: true }
    }

    fn message(text: &str) -> ErrorDetails {
        ErrorDetails { message: text.to_owned(), ..ErrorDetails::default() }
    }

    #[test]
    fn a_parameter_that_the_rejection_names_is_dropped() {
        let check = |text: &str, degradation: Degradation| {
            let advice = Capability::new().handle_rejection(&all(), &message(text));
            assert_eq!(advice, RejectionAdvice::Drop { degradation, first: true }, "{text}");
        };
        check("'response_format' is not supported", Degradation::Structured);
        check("This model does not support json_schema", Degradation::Structured);
        check("Invalid schema for response_format 'x'", Degradation::Structured);
        check(
            "Unsupported parameter: 'max_tokens' is not supported with this model. \
             Use 'max_completion_tokens' instead.",
            Degradation::TokenLimit,
        );
        check("temperature must be strictly positive", Degradation::Temperature);
        check("Unrecognized request argument supplied: seed", Degradation::Seed);
        check("`n` must be 1", Degradation::MultipleChoices);
        check("only n=1 is supported", Degradation::MultipleChoices);
        check("unknown parameter: n", Degradation::MultipleChoices);
        check("[{'type': 'extra_forbidden', 'loc': ('body', 'n')}]", Degradation::MultipleChoices);
    }

    #[test]
    fn the_param_field_takes_precedence_over_the_message() {
        let details = ErrorDetails { param: Some("seed".into()), ..message("temperature 0 with seed") };
        let advice = Capability::new().handle_rejection(&all(), &details);
        assert_eq!(advice, RejectionAdvice::Drop { degradation: Degradation::Seed, first: true });
        let deep = ErrorDetails { param: Some("response_format.json_schema".into()), ..message("no") };
        let advice = Capability::new().handle_rejection(&all(), &deep);
        assert_eq!(advice, RejectionAdvice::Drop { degradation: Degradation::Structured, first: true });
    }

    #[test]
    fn a_parameter_that_was_not_sent_is_not_blamed() {
        let sent = SentFeatures { seed: false, multiple_choices: false, ..all() };
        for text in ["seed is not supported", "`n` must be 1", "n tokens", "an error"] {
            let advice = Capability::new().handle_rejection(&sent, &message(text));
            assert_eq!(advice, RejectionAdvice::Try(Structured::JsonObject), "{text}");
        }
    }

    #[test]
    fn only_the_first_request_reports_a_degradation() {
        let capability = Capability::new();
        let details = message("seed?");
        assert_eq!(
            capability.handle_rejection(&all(), &details),
            RejectionAdvice::Drop { degradation: Degradation::Seed, first: true }
        );
        assert_eq!(
            capability.handle_rejection(&all(), &details),
            RejectionAdvice::Drop { degradation: Degradation::Seed, first: false }
        );
        assert!(!capability.features().seed);
        assert_eq!(capability.dropped(), ["seed"]);
    }

    #[test]
    fn modes_degrade_one_by_one_to_text() {
        let capability = Capability::new();
        let details = message("response_format, tools: unknown");
        for (from, to) in [
            (Structured::JsonSchema, Structured::JsonObject),
            (Structured::JsonObject, Structured::Tools),
            (Structured::Tools, Structured::Text),
        ] {
            let sent = SentFeatures { features: capability.features(), ..all() };
            assert_eq!(sent.features.structured, from);
            capability.handle_rejection(&sent, &details);
            assert_eq!(capability.features().structured, to);
        }
        let sent = SentFeatures { features: capability.features(), ..all() };
        assert_eq!(capability.handle_rejection(&sent, &details), RejectionAdvice::GiveUp);
        assert_eq!(capability.dropped(), ["json_schema", "json_object", "tools"]);
    }

    #[test]
    fn the_token_limit_is_renamed_before_it_is_omitted() {
        let capability = Capability::new();
        capability.handle_rejection(&all(), &message("max_tokens is deprecated"));
        assert_eq!(capability.features().token_limit, TokenLimitParameter::MaxCompletionTokens);
        let sent = SentFeatures { features: capability.features(), ..all() };
        capability.handle_rejection(&sent, &message("max_completion_tokens: unknown field"));
        assert_eq!(capability.features().token_limit, TokenLimitParameter::Unset);
    }

    #[test]
    fn a_tried_mode_is_kept_only_after_an_answer() {
        let capability = Capability::new();
        assert_eq!(
            capability.handle_rejection(&all(), &message("bad")),
            RejectionAdvice::Try(Structured::JsonObject)
        );
        assert_eq!(capability.features().structured, Structured::JsonSchema);
        assert!(capability.answered(Structured::JsonObject));
        assert!(!capability.answered(Structured::JsonObject));
        assert_eq!(capability.features().structured, Structured::JsonObject);
        assert_eq!(capability.structured(), Some(Structured::JsonObject));
    }

    #[test]
    fn a_mode_that_has_worked_is_not_degraded() {
        let capability = Capability::new();
        capability.answered(Structured::JsonSchema);
        assert_eq!(capability.handle_rejection(&all(), &message("bad")), RejectionAdvice::GiveUp);
    }

    #[test]
    fn a_prompt_that_is_too_long_does_not_degrade_other_requests() {
        let capability = Capability::new();
        let details = message("This model's maximum context length is 8192 tokens; max_tokens is too large");
        assert_eq!(capability.handle_rejection(&all(), &details), RejectionAdvice::OmitTokenLimit);
        let unlimited = EndpointFeatures { token_limit: TokenLimitParameter::Unset, ..EndpointFeatures::ALL };
        let sent = SentFeatures { features: unlimited, ..all() };
        assert_eq!(capability.handle_rejection(&sent, &details), RejectionAdvice::GiveUp);
        assert_eq!(capability.features(), EndpointFeatures::ALL);
    }
}
