#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| assay::fuzzing::dataset_rows(data));
