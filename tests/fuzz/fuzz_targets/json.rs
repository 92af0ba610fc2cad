#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentpipe::fuzz_targets::json(data));
