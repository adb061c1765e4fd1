//! Scores of answers.

#[cfg_attr(not(test), expect(dead_code, reason = "no metric asks a judge yet"))]
mod prompts;
