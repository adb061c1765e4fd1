#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests wait, read and write on their own threads, tell what they measured, and fail where they must"
)]

mod bad_input;
mod caller_limits;
mod cli;
mod drain;
mod edge;
mod embed_cache;
mod embed_queue;
mod embed_rpc;
mod embed_stream;
mod evaluate_cli;
mod evaluate_plan;
mod evaluate_rpc;
mod evaluate_stream;
mod evaluate_waits;
mod fixtures;
mod health;
mod hostile_text;
mod judge_faults;
mod lexical;
mod metric_limits;
mod model_source;
mod one_connection;
mod ragas;
mod ragas_defects;
mod report;
mod secrets;
mod stall;
mod support;
mod telemetry;
mod tidy;
mod tls;
mod tokenize;
mod tokens;
mod vectors;
mod warm_up;
