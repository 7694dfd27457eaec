//! A storm: many cores in many processes do everything at once, and a checker judges their logs.

pub mod actor;
pub mod body;
pub mod check;
pub mod crew;
pub mod forged;
#[cfg(debug_assertions)]
pub mod held;
pub mod log;
pub mod stage;
