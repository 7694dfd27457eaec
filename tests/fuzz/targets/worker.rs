//! One worker writes anything, at any time, into what is its own; see `rig/mod.rs`.
#![no_main]

use corecast::rig::{Reach, run, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(), |input: &[u8]| run(Reach::Own, input));
