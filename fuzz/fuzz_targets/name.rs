#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lockable::http::fuzz::name(data));
