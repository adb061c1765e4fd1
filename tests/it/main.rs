mod fixtures;
mod support;
mod vectors;
