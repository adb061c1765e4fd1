#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| assay::fuzzing::config_file(text));
