//! What asking costs: counted per question, and held to a budget per request.

use std::{fmt, ops::AddAssign, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use super::{error::JudgeError, wire::Usage};

/// US dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    pub prompt_usd: f64,
    /// For the part of the prompt that the endpoint had cached.
    pub cached_prompt_usd: f64,
    pub completion_usd: f64,
}

impl Prices {
    pub(super) fn usd(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        let million_usd = fresh as f64 * self.prompt_usd
            + cached as f64 * self.cached_prompt_usd
            + usage.completion_tokens as f64 * self.completion_usd;
        million_usd / 1e6
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// HTTP requests that were sent.
    pub calls: u32,
    /// Those of them that repeated one which had failed.
    pub retries: u32,
    /// Answers that came from the cache or a recording, or were shared with another caller.
    pub cache_hits: u32,
    pub prompt_tokens: u64,
    /// The part of the prompt tokens that the endpoint had cached.
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    /// The part of the completion tokens that went into thinking.
    pub reasoning_tokens: u64,
    pub wall: Duration,
    /// None where no prices are set.
    pub usd: Option<f64>,
}

impl Cost {
    pub(super) fn of(usage: &Usage, prices: Option<&Prices>) -> Cost {
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

/// Adds up what one question costs while it is asked.
pub(super) struct Tally(Mutex<Cost>);

impl Tally {
    pub fn new(prices: Option<&Prices>) -> Tally {
        Tally(Mutex::new(Cost { usd: prices.map(|_| 0.0), ..Cost::default() }))
    }

    pub fn add(&self, cost: &Cost) {
        *self.0.lock() += cost;
    }

    pub fn sum(&self) -> Cost {
        self.0.lock().clone()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BudgetLimits {
    pub calls: Option<u32>,
    pub tokens: Option<u64>,
    pub usd: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetKind {
    Calls,
    Tokens,
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

/// What one request may spend on judges, shared by all its questions.
#[derive(Clone)]
pub struct Budget(Arc<Account>);

struct Account {
    limits: BudgetLimits,
    /// Which pays as well.
    whole: Option<Budget>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    spent: Cost,
    /// For calls that wait for their turn.
    reserved_calls: u32,
    /// For calls that wait or are under way.
    reserved_tokens: u64,
    reserved_usd: f64,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("limits", &self.0.limits).field("spent", &self.spent()).finish()
    }
}

impl Budget {
    pub fn new(limits: BudgetLimits) -> Budget {
        Budget(Arc::new(Account { limits, whole: None, state: Mutex::default() }))
    }

    /// Counts for itself what it spends, which is this budget's as well and held to its limits.
    pub fn part(&self) -> Budget {
        let limits = BudgetLimits::default();
        Budget(Arc::new(Account { limits, whole: Some(self.clone()), state: Mutex::default() }))
    }

    pub fn unlimited() -> Budget {
        Budget::new(BudgetLimits::default())
    }

    /// All that was spent so far; calls under way count as calls, their tokens only once they are known.
    pub fn spent(&self) -> Cost {
        self.lock().spent.clone()
    }

    /// Calls that may still be made; None where they aren't limited.
    pub fn calls_left(&self) -> Option<u32> {
        let whole = self.0.whole.as_ref().and_then(Budget::calls_left);
        let state = self.lock();
        let used = state.spent.calls + state.reserved_calls;
        let own = self.0.limits.calls.map(|limit| limit.saturating_sub(used));
        own.into_iter().chain(whole).min()
    }

    /// Sets aside one call of about so many tokens and dollars.
    ///
    /// # Errors
    /// [`JudgeError::BudgetExhausted`] if a limit would be passed.
    pub(super) fn debit(&self, tokens: u64, usd: f64) -> Result<Debit, JudgeError> {
        let whole = self.0.whole.as_ref().map(|whole| whole.debit(tokens, usd)).transpose()?.map(Box::new);
        let mut state = self.lock();
        self.0.check(&state, tokens, usd)?;
        state.reserved_calls += 1;
        state.reserved_tokens += tokens;
        state.reserved_usd += usd;
        Ok(Debit { budget: self.clone(), whole, tokens, usd, sent: false })
    }

    /// What costs no call of its own: time, retries, hits.
    pub(super) fn note(&self, cost: &Cost) {
        self.lock().spent += cost;
        if let Some(whole) = &self.0.whole {
            whole.note(cost);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

impl Account {
    fn check(&self, state: &State, tokens: u64, usd: f64) -> Result<(), JudgeError> {
        let State { spent, reserved_calls, reserved_tokens, reserved_usd } = state;
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

/// What is set aside for one call; given back when it is dropped, but for what was used.
pub(super) struct Debit {
    budget: Budget,
    whole: Option<Box<Debit>>,
    tokens: u64,
    usd: f64,
    sent: bool,
}

impl Debit {
    /// The call goes out, so it counts as one whatever becomes of it.
    pub fn send(&mut self) {
        self.sent = true;
        if let Some(whole) = &mut self.whole {
            whole.send();
        }
        let mut state = self.budget.lock();
        state.reserved_calls -= 1;
        state.spent.calls += 1;
    }

    /// Books what the call really used in place of the guess.
    pub fn settle(self, used: &Cost) {
        self.budget.note(used);
    }
}

impl Drop for Debit {
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
    use crate::judge::{JudgeError, wire::Usage};

    fn usage(prompt_tokens: u64, cached_tokens: u64, completion_tokens: u64) -> Usage {
        Usage { prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens: 0 }
    }

    fn which(outcome: Result<super::Debit, JudgeError>) -> BudgetKind {
        match outcome.err() {
            Some(JudgeError::BudgetExhausted { which, .. }) => which,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn cached_prompt_tokens_have_a_price_of_their_own() {
        let prices = Prices { prompt_usd: 2.0, cached_prompt_usd: 0.5, completion_usd: 8.0 };
        assert_eq!(prices.usd(&usage(1_000_000, 400_000, 250_000)), 0.6 * 2.0 + 0.4 * 0.5 + 2.0);
        // More cached than there were: an endpoint's miscount must not pay money back.
        assert_eq!(prices.usd(&usage(1_000_000, 2_000_000, 0)), 0.5);
    }

    #[test]
    fn a_budget_of_calls_allows_just_so_many() {
        let budget = Budget::new(BudgetLimits { calls: Some(2), ..BudgetLimits::default() });
        let mut first = budget.debit(10, 0.0).expect("the first");
        let second = budget.debit(10, 0.0).expect("the second");
        assert_eq!(which(budget.debit(10, 0.0)), BudgetKind::Calls);
        first.send();
        drop(first);
        assert_eq!(which(budget.debit(10, 0.0)), BudgetKind::Calls);
        // It never went out, so another may.
        drop(second);
        budget.debit(10, 0.0).expect("the second again").send();
        assert_eq!(which(budget.debit(10, 0.0)), BudgetKind::Calls);
        assert_eq!(budget.spent().calls, 2);
    }

    #[test]
    fn what_is_set_aside_counts_until_it_is_settled_or_dropped() {
        let budget = Budget::new(BudgetLimits { tokens: Some(100), ..BudgetLimits::default() });
        let first = budget.debit(60, 0.0).expect("60 of 100");
        assert_eq!(which(budget.debit(60, 0.0)), BudgetKind::Tokens);
        first.settle(&Cost::of(&usage(20, 0, 10), None));
        let second = budget.debit(60, 0.0).expect("30 used, 60 more");
        drop(second);
        assert_eq!((budget.spent().prompt_tokens, budget.spent().completion_tokens), (20, 10));
        assert!(budget.debit(70, 0.0).is_ok());
    }

    #[test]
    fn a_part_counts_for_itself_and_is_held_to_the_limits_of_the_whole() {
        let whole = Budget::new(BudgetLimits { calls: Some(2), ..BudgetLimits::default() });
        let (one, other) = (whole.part(), whole.part());
        for part in [&one, &other] {
            let mut debit = part.debit(10, 0.0).expect("two calls");
            debit.send();
            debit.settle(&Cost::of(&usage(20, 0, 10), None));
        }
        assert_eq!(which(one.debit(10, 0.0)), BudgetKind::Calls);
        let tokens = |budget: &Budget| (budget.spent().calls, budget.spent().prompt_tokens);
        assert_eq!((tokens(&one), tokens(&other), tokens(&whole)), ((1, 20), (1, 20), (2, 40)));
        assert_eq!((one.calls_left(), whole.calls_left()), (Some(0), Some(0)));
        assert!(whole.0.check(&whole.lock(), 0, 0.0).is_err() && whole.lock().reserved_tokens == 0);
    }

    #[test]
    fn money_runs_out() {
        let budget = Budget::new(BudgetLimits { usd: Some(0.01), ..BudgetLimits::default() });
        let prices = Prices { prompt_usd: 10.0, cached_prompt_usd: 1.0, completion_usd: 10.0 };
        let used = Cost::of(&usage(900, 0, 0), Some(&prices));
        budget.debit(900, 0.009).expect("less than a cent").settle(&used);
        assert_eq!(which(budget.debit(900, 0.009)), BudgetKind::Usd);
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
