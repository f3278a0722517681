//! Records and providers among several nodes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use common::{Anything, Folder, Node, Numbered, event, key, record, within};
use diai_core::{DhtError, InvalidRecord, PeerEvent, PeerId, RecordKey, RecordMeta, RecordValidator, WallTime};
use diai_net::Config;
use futures::{StreamExt, TryStreamExt};

/// Nodes that all joined through the first.
async fn ring(count: usize) -> Vec<Node> {
    let contact = Node::start(Config::test()).await;
    contact.world.dht.register_validator("test", Arc::new(Numbered));
    let contacts = contact.addrs();
    let mut nodes = vec![contact];
    for _ in 1..count {
        let node = Node::start(Config { contacts: contacts[..1].to_vec(), ..Config::test() }).await;
        node.world.dht.register_validator("test", Arc::new(Numbered));
        let mut events = node.world.network.events();
        let first = nodes[0].peer();
        if node.world.network.peer(first).is_none_or(|info| info.agent.is_none()) {
            event(&mut events, |event| match event {
                PeerEvent::Connected(info) => (info.peer == first).then_some(()),
                _ => None,
            })
            .await;
        }
        nodes.push(node);
    }
    // All have met once the lookup of each names all others.
    for node in &nodes {
        within(async { while node.world.dht.closest(key("")).await.unwrap().len() < count - 1 {} }).await;
    }
    nodes
}

async fn providers(node: &Node, name: &str) -> BTreeSet<PeerId> {
    let batches: Vec<_> = within(node.world.dht.providers(key(name)).try_collect()).await.unwrap();
    batches.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_put_by_one_is_got_by_all_and_the_newer_one_wins() {
    let nodes = ring(4).await;
    within(nodes[3].world.dht.put(key("k"), record(1, "old"))).await.unwrap();
    for node in &nodes {
        assert_eq!(within(node.world.dht.get(key("k"))).await, Ok(Some(record(1, "old"))));
    }
    within(nodes[2].world.dht.put(key("k"), record(2, "new"))).await.unwrap();
    for node in &nodes {
        assert_eq!(within(node.world.dht.get(key("k"))).await, Ok(Some(record(2, "new"))));
    }
    let older = within(nodes[2].world.dht.put(key("k"), record(1, "old"))).await;
    assert!(matches!(older, Err(DhtError::Invalid(_))), "{older:?}");
    assert_eq!(within(nodes[0].world.dht.get(key("other"))).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_record_is_neither_put_nor_taken_from_a_hostile_node() {
    let nodes = ring(3).await;
    let refused = within(nodes[0].world.dht.put(key("k"), "no".into())).await;
    assert!(matches!(refused, Err(DhtError::Invalid(_))), "{refused:?}");
    within(nodes[0].world.dht.put(key("k"), record(1, "good"))).await.unwrap();
    nodes[2].world.dht.register_validator("test", Arc::new(Anything));
    // It holds this itself and sends it to the others, who refuse it; readers refuse it too.
    within(nodes[2].world.dht.put(key("k"), "wrong".into())).await.unwrap();
    for node in &nodes[..2] {
        assert_eq!(within(node.world.dht.get(key("k"))).await, Ok(Some(record(1, "good"))));
    }
    assert_eq!(within(nodes[2].world.dht.get(key("k"))).await, Ok(Some("wrong".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_are_found_by_all_themselves_included_until_they_withdraw() {
    let nodes = ring(4).await;
    within(nodes[1].world.dht.provide(key("p"))).await.unwrap();
    within(nodes[2].world.dht.provide(key("p"))).await.unwrap();
    let both = BTreeSet::from([nodes[1].peer(), nodes[2].peer()]);
    // Announcements are not acknowledged: ask until they have arrived.
    for node in &nodes {
        within(async { while providers(node, "p").await != both {} }).await;
    }
    nodes[1].world.dht.stop_providing(&key("p"));
    let own = within(async {
        loop {
            let first = nodes[1].world.dht.providers(key("p")).next().await;
            match first {
                Some(Ok(batch)) if batch.contains(&nodes[1].peer()) => {}
                other => break other,
            }
        }
    });
    assert_eq!(own.await, Some(Ok(vec![nodes[2].peer()])), "what it holds itself comes first");
    let closest: BTreeSet<_> = within(nodes[3].world.dht.closest(key("p"))).await.unwrap().into_iter().collect();
    assert_eq!(closest, nodes[..3].iter().map(Node::peer).collect());
}

#[tokio::test]
async fn alone_a_node_serves_itself() {
    let node = Node::start(Config::test()).await;
    node.world.dht.register_validator("test", Arc::new(Numbered));
    within(node.world.dht.put(key("k"), record(1, ""))).await.unwrap();
    assert_eq!(within(node.world.dht.get(key("k"))).await, Ok(Some(record(1, ""))));
    within(node.world.dht.provide(key("p"))).await.unwrap();
    assert_eq!(providers(&node, "p").await, BTreeSet::from([node.peer()]));
    assert_eq!(within(node.world.dht.closest(key("p"))).await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_announced_alone_is_announced_to_whoever_comes_later() {
    let early = Node::start(Config::test()).await;
    early.world.dht.register_validator("test", Arc::new(Numbered));
    within(early.world.dht.put(key("k"), record(1, "early"))).await.unwrap();
    within(early.world.dht.provide(key("p"))).await.unwrap();
    let late = Node::start(Config::test()).await;
    let (sender, mut asked) = tokio::sync::mpsc::channel(8);
    late.world.dht.register_validator("test", Arc::new(Noticing(sender)));
    late.meet(&early).await;
    // It asked nobody for a record, so it was sent one.
    within(asked.recv()).await.unwrap();
    let peer = early.peer();
    within(async { while !providers(&late, "p").await.contains(&peer) {} }).await;
    let mut events = late.world.network.events();
    within(early.net.shutdown()).await.unwrap();
    event(&mut events, |event| (event == PeerEvent::Disconnected(peer)).then_some(())).await;
    within(async { while late.world.dht.get(key("k")).await != Ok(Some(record(1, "early"))) {} }).await;
}

/// Tells when it is asked.
struct Noticing(tokio::sync::mpsc::Sender<()>);

impl RecordValidator for Noticing {
    fn validate(&self, key: &RecordKey, value: &[u8], now: WallTime) -> Result<RecordMeta, InvalidRecord> {
        let _ = self.0.try_send(());
        Numbered.validate(key, value, now)
    }
}

#[tokio::test]
async fn records_survive_a_restart() {
    let (folder, who) = (Folder::new(), common::identity());
    let node = Node::start_as(who.clone(), folder, Config::test()).await;
    node.world.dht.register_validator("test", Arc::new(Numbered));
    within(node.world.dht.put(key("k"), record(3, "kept"))).await.unwrap();
    let Node { net, folder, .. } = node;
    within(net.shutdown()).await.unwrap();
    let node = Node::start_as(who, folder, Config::test()).await;
    node.world.dht.register_validator("test", Arc::new(Numbered));
    within(async { while within(node.world.dht.get(key("k"))).await != Ok(Some(record(3, "kept"))) {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_contact_dies_the_others_still_find_each_other() {
    let mut nodes = ring(4).await;
    within(nodes[1].world.dht.put(key("k"), record(1, "x"))).await.unwrap();
    within(nodes[2].world.dht.provide(key("p"))).await.unwrap();
    let contact = nodes.remove(0);
    // Not a farewell: its task ends at once.
    drop(contact);
    assert_eq!(within(nodes[2].world.dht.get(key("k"))).await, Ok(Some(record(1, "x"))));
    within(async { while providers(&nodes[0], "p").await != BTreeSet::from([nodes[1].peer()]) {} }).await;
    within(nodes[2].world.network.connect(nodes[0].peer(), Vec::new())).await.unwrap();
}
