mod fixtures;
mod stall;
mod support;
mod vectors;
