//! The World's DHT over libp2p-kad: a record store of our own, and a driver that takes commands.

mod dht;
mod driver;
mod journal;
mod keeper;
mod query;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use dht::{DhtShared, Table};
pub(crate) use driver::Driver;
