//! All workers write anything, at any time, into all that workers write; see `rig/mod.rs`.
#![no_main]

use corecast::rig::{Reach, run, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(), |input: &[u8]| run(Reach::All, input));
