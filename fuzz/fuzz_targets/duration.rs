#![no_main]

libfuzzer_sys::fuzz_target!(|data: &str| lockable::http::fuzz::duration(data));
