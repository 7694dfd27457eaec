//! What this bench shares with the prefork bench: the same processes, contents, relay and hub.

#![allow(
    dead_code,
    reason = "the prefork bench uses the rest, and denies what nobody uses"
)]

#[path = "../../support/content.rs"]
pub mod content;
#[path = "../../support/crew.rs"]
pub mod crew;
#[path = "../../support/figures.rs"]
pub mod figures;
#[path = "../../support/frames.rs"]
pub mod frames;
#[path = "../../support/hub.rs"]
pub mod hub;
#[path = "../../support/machine.rs"]
pub mod machine;
#[path = "../../support/matrix.rs"]
pub mod matrix;
#[path = "../../support/relay.rs"]
pub mod relay;
#[path = "../../support/round.rs"]
pub mod round;
