#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| events_fuzz::properties::template::check(input));
