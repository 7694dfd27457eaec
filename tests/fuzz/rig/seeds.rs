//! Seeds: what real runs look like, and the same with single lies at chosen places.

use std::path::PathBuf;

/// The acts of `play.rs` that a program is made of, with the names they have there.
const TALK: u8 = 8;
const LISTEN: u8 = 9;
const REST: u8 = 10;
const REPLACE: u8 = 11;
/// Added to an act: the router does not step after it.
const NO_STEP: u8 = 16;

/// Programs: a chat, a flood, churn, a large message, a slow receiver, deaths.
const PROGRAMS: &[&[u8]] = &[
    &[6, 1, TALK, 3, 1, 9, LISTEN, 0, 7, 0, TALK, 2, LISTEN, 0],
    &[
        4,
        19,
        4,
        19,
        4 | NO_STEP,
        19,
        TALK | NO_STEP,
        7,
        0,
        3,
        LISTEN,
        0,
        REST,
        0,
    ],
    &[
        2, 1, 2, 2, 2, 3, 3, 1, 6, 70, 2, 1, 3, 2, 6, 0, 0, 2, REST, 0,
    ],
    &[6, 1, 5, 200, TALK, 4, 5, 255, 7, 0, 5, 100, LISTEN, 0, 7, 0],
    &[
        6, 1, TALK, 7, TALK, 7, LISTEN, 0, TALK, 7, 4, 15, LISTEN, 0, 7, 0, 0, 4,
    ],
    &[
        6, 1, 1, 5, REPLACE, 0, 2, 4, 1, 3, REPLACE, 0, 6, 1, TALK, 2, LISTEN, 0,
    ],
    &[
        15, 1, 13, 0, 14, 2, 15, 9, TALK, 1, LISTEN, 0, REST, 0, 14, 63,
    ],
    &[
        6, 1, 12, 0, TALK, 1, 12, 9, 1, 8, 12, 255, 5, 99, LISTEN, 0, 7, 0,
    ],
];

/// Single lies, each after a number of loads that find the truth: a bit, a length, a kind, a
/// channel, a ticket, a whole header, another word, an old word, another pid.
const LIES: &[&[u8]] = &[
    &[160, 0],
    &[170, 33],
    &[190, 255],
    &[205, 1, 0],
    &[212, 1],
    &[220, 3],
    &[240, 0],
    &[250, 255, 255, 255, 255, 255, 255, 255, 240],
    &[200, 8, 1],
    &[208, 0, 255, 255],
    &[226, 4, 255, 255, 255, 127],
    &[228, 10, 255, 255, 255, 255],
];

/// Writes the seeds into the directory that the environment names as `CORECAST_SEEDS`, if it does.
pub fn write_seeds() {
    let Some(folder) = std::env::var_os("CORECAST_SEEDS").map(PathBuf::from) else {
        return;
    };
    for (i, seed) in seeds().iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{i:03}")), seed).expect("the seeds' directory");
    }
}

/// Inputs for both targets: every program honest, and with every lie at some loads.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (i, program) in PROGRAMS.iter().enumerate() {
        seeds.push(input(i as u8, program, &[]));
        for (j, lie) in LIES.iter().enumerate() {
            for truths in [1, 4, 9, 23, 48] {
                let mut lies = vec![0; truths + (i + j) % 3];
                lies.extend(*lie);
                seeds.push(input((i * 5 + j) as u8, program, &lies));
            }
        }
    }
    seeds
}

fn input(first: u8, program: &[u8], lies: &[u8]) -> Vec<u8> {
    [&[first, program.len() as u8], program, lies].concat()
}
