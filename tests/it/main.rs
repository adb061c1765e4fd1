mod model_source;
mod support;
