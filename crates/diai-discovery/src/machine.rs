//! The sans-IO machines: what is to be placed in the DHT and when, and who asks too often.

mod limiter;
mod registrar;

pub(crate) use limiter::Limiter;
pub(crate) use registrar::{Input, Intervals, Item, Output, Registrar};
