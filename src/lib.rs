pub mod stall;
