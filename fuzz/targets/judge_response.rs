#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| assay::fuzzing::judge_response(data));
