mod embed_rpc;
mod embed_stream;
mod fixtures;
mod model_source;
mod stall;
mod support;
mod vectors;
