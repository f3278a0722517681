//! The World's DHT over libp2p-kad: a record store of our own, and a driver that takes commands.

mod announcer;
mod dht;
mod driver;
mod gate;
mod journal;
mod keeper;
mod providers;
mod query;
mod rates;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use dht::{DhtShared, Table};
pub(crate) use driver::Driver;
pub(crate) use gate::Standing;
