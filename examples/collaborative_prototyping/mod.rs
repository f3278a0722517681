//! The parts of the story that need no network: reading the idea and the market, checking the model, telling
//! what happens, and writing the report. The story itself is `main.rs` beside this file.

pub mod account;
pub mod idea;
pub mod market;
pub mod report;
pub mod stl;
