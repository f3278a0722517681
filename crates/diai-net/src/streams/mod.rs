//! Streams to other devices: who is connected, opening, accepting, the hello, penalties.

mod acceptor;
mod behaviour;
mod handler;
mod network;
mod peer;
mod shared;
mod sources;
mod state;
#[cfg(test)]
mod tests;
mod upgrade;

pub(crate) use behaviour::Behaviour;
pub(crate) use network::Streams;
pub(crate) use shared::Shared;
