#![no_main]

libfuzzer_sys::fuzz_target!(|data: &str| lockable::http::fuzz::lock_info(data));
