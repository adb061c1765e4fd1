//! Cost of questions, and budgets that bound it per request.

use std::{fmt, ops::AddAssign, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use super::{error::JudgeError, wire::TokenUsage};

/// Prices in US dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Price of a million prompt tokens, in USD.
    pub prompt_usd: f64,
    /// Price of prompt tokens that the endpoint served from its cache.
    pub cached_prompt_usd: f64,
    /// Price of a million completion tokens, in USD.
    pub completion_usd: f64,
}

impl Prices {
    pub(super) fn usd(&self, usage: &TokenUsage) -> f64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        let million_usd = fresh as f64 * self.prompt_usd
            + cached as f64 * self.cached_prompt_usd
            + usage.completion_tokens as f64 * self.completion_usd;
        million_usd / 1e6
    }
}

/// Calls, tokens, time and money spent on questions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// HTTP requests sent.
    pub calls: u32,
    /// The part of `calls` that are retries.
    pub retries: u32,
    /// Answers from the cache, from a recording, or shared with another caller.
    pub cache_hits: u32,
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// The part of `prompt_tokens` that the endpoint served from its cache.
    pub cached_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// The part of `completion_tokens` spent on reasoning.
    pub reasoning_tokens: u64,
    /// Elapsed time.
    pub wall: Duration,
    /// `None` if no prices are configured.
    pub usd: Option<f64>,
}

impl Cost {
    pub(super) fn from_usage(usage: &TokenUsage, prices: Option<&Prices>) -> Cost {
        Cost {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            completion_tokens: usage.completion_tokens,
            reasoning_tokens: usage.reasoning_tokens,
            usd: prices.map(|prices| prices.usd(usage)),
            ..Cost::default()
        }
    }

    fn tokens(&self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }
}

impl AddAssign<&Cost> for Cost {
    fn add_assign(&mut self, other: &Cost) {
        self.calls += other.calls;
        self.retries += other.retries;
        self.cache_hits += other.cache_hits;
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.completion_tokens += other.completion_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.wall += other.wall;
        self.usd = match (self.usd, other.usd) {
            (None, None) => None,
            (mine, theirs) => Some(mine.unwrap_or_default() + theirs.unwrap_or_default()),
        };
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        *self += &other;
    }
}

/// Accumulates the cost of one question.
pub(super) struct CostTally(Mutex<Cost>);

impl CostTally {
    pub fn new(prices: Option<&Prices>) -> CostTally {
        CostTally(Mutex::new(Cost { usd: prices.map(|_| 0.0), ..Cost::default() }))
    }

    pub fn add(&self, cost: &Cost) {
        *self.0.lock() += cost;
    }

    pub fn sum(&self) -> Cost {
        self.0.lock().clone()
    }
}

/// Limits of a budget; `None` means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BudgetLimits {
    /// Maximum number of requests.
    pub calls: Option<u32>,
    /// Maximum number of tokens.
    pub tokens: Option<u64>,
    /// Maximum cost in USD.
    pub usd: Option<f64>,
}

/// Unit of a budget limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetKind {
    /// The number of requests.
    Calls,
    /// The number of tokens.
    Tokens,
    /// The cost in USD.
    Usd,
}

impl fmt::Display for BudgetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BudgetKind::Calls => "calls",
            BudgetKind::Tokens => "tokens",
            BudgetKind::Usd => "US dollars",
        })
    }
}

/// Budget of one request for judges, shared by all its questions. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<BudgetInner>);

struct BudgetInner {
    limits: BudgetLimits,
    /// Budget whose limits apply as well, and which records the same spending.
    parent: Option<Budget>,
    state: Mutex<BudgetState>,
}

#[derive(Default)]
struct BudgetState {
    spent: Cost,
    /// Reserved for queued calls.
    reserved_calls: u32,
    /// Reserved for calls that are queued or in flight.
    reserved_tokens: u64,
    reserved_usd: f64,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("limits", &self.0.limits).field("spent", &self.spent()).finish()
    }
}

impl Budget {
    /// A budget with these limits.
    pub fn new(limits: BudgetLimits) -> Budget {
        Budget(Arc::new(BudgetInner { limits, parent: None, state: Mutex::default() }))
    }

    /// Creates a budget without limits of its own; its spending is recorded in this budget, too, and bound by its limits.
    pub fn child(&self) -> Budget {
        let limits = BudgetLimits::default();
        Budget(Arc::new(BudgetInner { limits, parent: Some(self.clone()), state: Mutex::default() }))
    }

    /// A budget without limits.
    pub fn unlimited() -> Budget {
        Budget::new(BudgetLimits::default())
    }

    /// Spending so far. Calls in flight are included, their tokens only when the endpoint has reported them.
    pub fn spent(&self) -> Cost {
        self.lock().spent.clone()
    }

    /// Calls left; `None` if calls are unlimited.
    pub fn calls_left(&self) -> Option<u32> {
        let parent = self.0.parent.as_ref().and_then(Budget::calls_left);
        let state = self.lock();
        let used = state.spent.calls + state.reserved_calls;
        let own = self.0.limits.calls.map(|limit| limit.saturating_sub(used));
        own.into_iter().chain(parent).min()
    }

    /// Reserves one call with estimated tokens and US dollars.
    ///
    /// # Errors
    /// [`JudgeError::BudgetExhausted`] if a limit would be exceeded.
    pub(super) fn reserve(&self, tokens: u64, usd: f64) -> Result<BudgetReservation, JudgeError> {
        let parent =
            self.0.parent.as_ref().map(|parent| parent.reserve(tokens, usd)).transpose()?.map(Box::new);
        let mut state = self.lock();
        self.0.check(&state, tokens, usd)?;
        state.reserved_calls += 1;
        state.reserved_tokens += tokens;
        state.reserved_usd += usd;
        Ok(BudgetReservation { budget: self.clone(), parent, tokens, usd, sent: false })
    }

    /// Records spending that needs no reservation.
    pub(super) fn record(&self, cost: &Cost) {
        self.lock().spent += cost;
        if let Some(parent) = &self.0.parent {
            parent.record(cost);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.0.state.lock()
    }
}

impl BudgetInner {
    fn check(&self, state: &BudgetState, tokens: u64, usd: f64) -> Result<(), JudgeError> {
        let BudgetState { spent, reserved_calls, reserved_tokens, reserved_usd } = state;
        let calls = spent.calls + reserved_calls;
        let tokens = spent.tokens() + reserved_tokens + tokens;
        let usd = spent.usd.unwrap_or_default() + reserved_usd + usd;
        let exhausted = |which, limit| Err(JudgeError::BudgetExhausted { which, limit });
        match self.limits {
            BudgetLimits { calls: Some(limit), .. } if calls >= limit => {
                exhausted(BudgetKind::Calls, f64::from(limit))
            }
            BudgetLimits { tokens: Some(limit), .. } if tokens > limit => {
                exhausted(BudgetKind::Tokens, limit as f64)
            }
            BudgetLimits { usd: Some(limit), .. } if usd > limit => exhausted(BudgetKind::Usd, limit),
            _ => Ok(()),
        }
    }
}

/// Reservation for one call. On drop, the unused part is released.
pub(super) struct BudgetReservation {
    budget: Budget,
    parent: Option<Box<BudgetReservation>>,
    tokens: u64,
    usd: f64,
    sent: bool,
}

impl BudgetReservation {
    /// Marks the call as sent, so that it counts whatever its outcome.
    pub fn mark_sent(&mut self) {
        self.sent = true;
        if let Some(parent) = &mut self.parent {
            parent.mark_sent();
        }
        let mut state = self.budget.lock();
        state.reserved_calls -= 1;
        state.spent.calls += 1;
    }

    /// Records the actual usage in place of the estimate.
    pub fn settle(self, used: &Cost) {
        self.budget.record(used);
    }
}

impl Drop for BudgetReservation {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.reserved_calls -= u32::from(!self.sent);
        state.reserved_tokens -= self.tokens;
        // Sums of floats do not cancel out exactly.
        state.reserved_usd = (state.reserved_usd - self.usd).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, BudgetKind, BudgetLimits, Cost, Prices};
    use crate::judge::{JudgeError, wire::TokenUsage};

    fn usage(prompt_tokens: u64, cached_tokens: u64, completion_tokens: u64) -> TokenUsage {
        TokenUsage { prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens: 0 }
    }

    fn which(outcome: Result<super::BudgetReservation, JudgeError>) -> BudgetKind {
        match outcome.err() {
            Some(JudgeError::BudgetExhausted { which, .. }) => which,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn cached_prompt_tokens_have_a_price_of_their_own() {
        let prices = Prices { prompt_usd: 2.0, cached_prompt_usd: 0.5, completion_usd: 8.0 };
        assert_eq!(prices.usd(&usage(1_000_000, 400_000, 250_000)), 0.6 * 2.0 + 0.4 * 0.5 + 2.0);
        // An endpoint that reports more cached tokens than prompt tokens must not lower the cost.
        assert_eq!(prices.usd(&usage(1_000_000, 2_000_000, 0)), 0.5);
    }

    #[test]
    fn a_budget_of_calls_is_exact() {
        let budget = Budget::new(BudgetLimits { calls: Some(2), ..BudgetLimits::default() });
        let mut first = budget.reserve(10, 0.0).expect("the first");
        let second = budget.reserve(10, 0.0).expect("the second");
        assert_eq!(which(budget.reserve(10, 0.0)), BudgetKind::Calls);
        first.mark_sent();
        drop(first);
        assert_eq!(which(budget.reserve(10, 0.0)), BudgetKind::Calls);
        // It was never sent, so another call is possible.
        drop(second);
        budget.reserve(10, 0.0).expect("the second again").mark_sent();
        assert_eq!(which(budget.reserve(10, 0.0)), BudgetKind::Calls);
        assert_eq!(budget.spent().calls, 2);
    }

    #[test]
    fn reservations_count_until_settled_or_dropped() {
        let budget = Budget::new(BudgetLimits { tokens: Some(100), ..BudgetLimits::default() });
        let first = budget.reserve(60, 0.0).expect("60 of 100");
        assert_eq!(which(budget.reserve(60, 0.0)), BudgetKind::Tokens);
        first.settle(&Cost::from_usage(&usage(20, 0, 10), None));
        let second = budget.reserve(60, 0.0).expect("30 used, 60 more");
        drop(second);
        assert_eq!((budget.spent().prompt_tokens, budget.spent().completion_tokens), (20, 10));
        assert!(budget.reserve(70, 0.0).is_ok());
    }

    #[test]
    fn a_child_budget_is_bound_by_its_parent() {
        let parent = Budget::new(BudgetLimits { calls: Some(2), ..BudgetLimits::default() });
        let (one, other) = (parent.child(), parent.child());
        for child in [&one, &other] {
            let mut reservation = child.reserve(10, 0.0).expect("two calls");
            reservation.mark_sent();
            reservation.settle(&Cost::from_usage(&usage(20, 0, 10), None));
        }
        assert_eq!(which(one.reserve(10, 0.0)), BudgetKind::Calls);
        let tokens = |budget: &Budget| (budget.spent().calls, budget.spent().prompt_tokens);
        assert_eq!((tokens(&one), tokens(&other), tokens(&parent)), ((1, 20), (1, 20), (2, 40)));
        assert_eq!((one.calls_left(), parent.calls_left()), (Some(0), Some(0)));
        assert!(parent.0.check(&parent.lock(), 0, 0.0).is_err() && parent.lock().reserved_tokens == 0);
    }

    #[test]
    fn a_dollar_budget_is_enforced() {
        let budget = Budget::new(BudgetLimits { usd: Some(0.01), ..BudgetLimits::default() });
        let prices = Prices { prompt_usd: 10.0, cached_prompt_usd: 1.0, completion_usd: 10.0 };
        let used = Cost::from_usage(&usage(900, 0, 0), Some(&prices));
        budget.reserve(900, 0.009).expect("less than a cent").settle(&used);
        assert_eq!(which(budget.reserve(900, 0.009)), BudgetKind::Usd);
        assert_eq!(budget.spent().usd, Some(0.009));
    }

    #[test]
    fn costs_add_up_and_unknown_prices_stay_unknown() {
        let mut sum = Cost::default();
        sum += Cost { calls: 1, prompt_tokens: 5, ..Cost::default() };
        assert_eq!(sum.usd, None);
        sum += Cost { calls: 2, usd: Some(0.5), ..Cost::default() };
        assert_eq!((sum.calls, sum.prompt_tokens, sum.usd), (3, 5, Some(0.5)));
    }
}
