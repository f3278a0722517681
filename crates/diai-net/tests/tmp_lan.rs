//! x
#![allow(clippy::unwrap_used)]
mod common;
#[tokio::test]
async fn lan() {
    let a = common::Node::start(diai_net::Config::lan()).await;
    let b = common::Node::start(diai_net::Config::lan()).await;
    println!("{:?}", a.addrs());
    let mut e = a.world.network.events();
    let p = b.peer();
    common::event(&mut e, |e| match e { diai_core::PeerEvent::Connected(i) => { println!("{i:?}"); (i.peer == p).then_some(()) }, _ => None }).await;
}
