#![no_main]

#[path = "../../../src/cli/mod.rs"]
#[expect(dead_code, reason = "the command has more than its parsers")]
mod cli;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cli::fuzz_targets::script(data));
