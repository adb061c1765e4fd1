mod embed_rpc;
mod fixtures;
mod model_source;
mod stall;
mod support;
mod vectors;
