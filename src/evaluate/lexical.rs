//! Scores that need neither a judge nor a model: each is a pure function of the texts and of typed options.
