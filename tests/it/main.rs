mod stall;
